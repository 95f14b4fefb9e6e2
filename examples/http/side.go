package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// The levels, which are the table's columns, and the protocols.
const (
	ordinary = "http.Transport"
	level1   = "NewTransport"
	level2   = "Client"
)

var (
	levels    = []string{ordinary, level1, level2}
	protocols = []string{"HTTP/1.1", "HTTP/2"}
)

// side is a way to send requests, to a server of its own, and the books that are
// kept on it, all of them from outside.
type side struct {
	level, protocol string
	url             string
	rt              http.RoundTripper
	end             func()
	srv             *server

	mu   sync.Mutex
	next int  // request
	row  *row // of the present fault; nil before it
}

// request is one that a worker has sent.
type request struct {
	path  string
	post  bool
	began time.Time
}

// newSide makes what one fault is shown on. The returned side is to be closed,
// unless there is an error.
func newSide(level, protocol string, s *stage, port int) (*side, error) {
	listen, addr, err := s.site.Listener(0, port)
	if err != nil {
		return nil, err
	}
	srv, err := newServer(protocol == "HTTP/2", s.takes, s.cert, listen)
	if err != nil {
		return nil, err
	}
	side := &side{level: level, protocol: protocol, url: "https://" + addr, srv: srv}
	if err := side.connect(s); err != nil {
		srv.stop()
		return nil, err
	}
	return side, nil
}

// base is what all sides start from: http.DefaultTransport, which keeps more than
// two idle connections here, as any program with some load has it.
func base(roots *x509.CertPool, connect health.DialFunc) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.MaxIdleConnsPerHost = 100
	t.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: serverName}
	t.DialContext = connect
	return t
}

func (s *side) connect(st *stage) error {
	plain := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second} // http.DefaultTransport's
	t := base(st.roots, st.site.Dial(plain.DialContext))
	if s.level == ordinary {
		s.rt, s.end = t, t.CloseIdleConnections
		return nil
	}
	d, err := st.site.Dialer(st.detect)
	if err != nil {
		return err
	}
	if s.level == level1 {
		t, err := newTransport(d, t)
		if err != nil {
			return errors.Join(err, d.Close())
		}
		s.rt, s.end = t, func() { t.CloseIdleConnections(); _ = d.Close() }
		return nil
	}
	c, err := newClient(d, t)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	s.rt, s.end = c, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
		_ = d.Close()
	}
	return nil
}

// close ends what newSide has made. What a broken network keeps from ending, a
// server that is gone ends.
func (s *side) close() {
	s.srv.stop()
	s.end()
}

var errWrongAnswer = errors.New("got somebody else's answer")

// send sends a request. Every eighth is a POST.
func (s *side) send(ctx context.Context, deadline time.Duration) {
	r := s.begin()
	err := s.exchange(ctx, r, deadline)
	if ctx.Err() == nil {
		s.ended(r, err)
	}
}

func (s *side) exchange(ctx context.Context, r *request, deadline time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	method, body := http.MethodGet, ""
	if r.post {
		method, body = http.MethodPost, r.path
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+r.path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != r.path {
		err = fmt.Errorf("%w: %q instead of %q", errWrongAnswer, got, r.path)
	}
	return err
}

func (s *side) begin() *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return &request{path: fmt.Sprintf("/%d", s.next), post: s.next%8 == 0, began: time.Now()}
}

func (s *side) ended(r *request, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.row != nil {
		s.row.ended(r, now, err)
	}
}

// strike begins the row: from now on things break.
func (s *side) strike() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row = &row{level: s.level, protocol: s.protocol, struck: time.Now()}
}

// struck notes that they have.
func (s *side) struck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.row.over, s.row.back = now, now
}

// back notes that the server can be reached again.
func (s *side) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.back = time.Now()
	s.row.success = time.Time{}
}

// closeRow ends the row and returns it.
func (s *side) closeRow() row {
	twice := s.srv.twice()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.end = time.Now()
	s.row.twice = twice
	return *s.row
}
