package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// server is what the workers' requests go to. It answers with the request's path,
// which nobody else's answer can be mistaken for, and counts how often it has
// executed each POST.
type server struct {
	http2   bool
	takes   time.Duration // to answer
	cert    tls.Certificate
	listen  func() (net.Listener, error) // at the same address every time
	running sync.WaitGroup

	mu       sync.Mutex
	srv      *http.Server
	conns    map[net.Conn]http.ConnState
	executed map[string]int
}

func newServer(http2 bool, takes time.Duration, cert tls.Certificate, listen func() (net.Listener, error)) (*server, error) {
	s := &server{http2: http2, takes: takes, cert: cert, listen: listen, conns: map[net.Conn]http.ConnState{}, executed: map[string]int{}}
	return s, s.start()
}

func (s *server) start() error {
	ln, err := s.listen()
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:   http.HandlerFunc(s.serve),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}},
		Protocols: new(http.Protocols),
		ConnState: s.note,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	srv.Protocols.SetHTTP1(!s.http2)
	srv.Protocols.SetHTTP2(s.http2)
	s.mu.Lock()
	s.srv = srv
	s.mu.Unlock()
	s.running.Go(func() { _ = srv.ServeTLS(ln, "", "") })
	return nil
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		s.mu.Lock()
		s.executed[r.URL.Path]++
		s.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r.Body)
	backstage.Sleep(r.Context(), s.takes)
	_, _ = io.WriteString(w, r.URL.Path)
}

func (s *server) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateClosed {
		delete(s.conns, c)
		return
	}
	s.conns[c] = state
}

// twice returns how many POSTs were executed more than once.
func (s *server) twice() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, times := range s.executed {
		if times > 1 {
			n++
		}
	}
	return n
}

// stop ends the server: nobody listens any more, and all connections are closed,
// whatever is under way on them. It may be called again.
func (s *server) stop() {
	s.mu.Lock()
	srv := s.srv
	s.mu.Unlock()
	_ = srv.Close()
	s.running.Wait()
}

// reset aborts all connections: the clients receive a reset.
func (s *server) reset() {
	for _, c := range s.those(func(http.ConnState) bool { return true }) {
		raw := c
		if t, ok := c.(*tls.Conn); ok {
			raw = t.NetConn()
		}
		if t, ok := raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = raw.Close()
	}
}

// closeIdle closes the connections on which no request is being served.
func (s *server) closeIdle() {
	for _, c := range s.those(func(state http.ConnState) bool { return state == http.StateIdle }) {
		_ = c.Close()
	}
}

func (s *server) those(match func(http.ConnState) bool) (conns []net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, state := range s.conns {
		if match(state) {
			conns = append(conns, c)
		}
	}
	return conns
}

const serverName = "server.example"

// certify makes a certificate for the servers, and what trusts it.
func certify() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{serverName}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}
