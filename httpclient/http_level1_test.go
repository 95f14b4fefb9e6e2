package httpclient

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/dial"
)

// transportOf returns a Transport made of theirs, and closed with the test.
func transportOf(t testing.TB, theirs *http.Transport) *http.Transport {
	d, err := dial.New(dial.Config{})
	require.NoError(t, err)
	ours, err := NewTransport(TransportConfig{Dialer: d, Transport: theirs})
	require.NoError(t, err)
	t.Cleanup(func() {
		ours.CloseIdleConnections()
		assert.NoError(t, d.Close())
	})
	return ours
}

// levels runs a test with both.
func levels(t *testing.T, theirs *http.Transport, test func(t *testing.T, rt http.RoundTripper)) {
	t.Run("Transport", func(t *testing.T) { test(t, transportOf(t, theirs)) })
	t.Run("Client", func(t *testing.T) {
		test(t, clientOf(t, nil, func(cfg *Config) { cfg.Transport = theirs }))
	})
}

func TestTheServersNameAndHostAreThoseOfTheRequest(t *testing.T) {
	for _, host := range []string{"", "other.test"} {
		t.Run("Host="+host, func(t *testing.T) {
			var mu sync.Mutex
			var sni []string
			s := unstarted(true, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
			s.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				mu.Lock()
				defer mu.Unlock()
				sni = append(sni, h.ServerName)
				return nil, nil
			}}
			s.StartTLS()
			t.Cleanup(s.Close)
			_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
			theirs := trustOf(s)
			theirs.TLSClientConfig.InsecureSkipVerify = true // localhost isn't in the certificate
			levels(t, theirs, func(t *testing.T, rt http.RoundTripper) {
				req := newReq(t, "GET", "https://localhost:"+port, nil)
				req.Host = host
				want := host
				if want == "" {
					want = "localhost:" + port
				}
				_, got := send(t, rt, req)
				assert.Equal(t, want, got)
				mu.Lock()
				defer mu.Unlock()
				require.NotEmpty(t, sni)
				assert.Equal(t, "localhost", sni[len(sni)-1])
			})
		})
	}
}

// A dialer dials what the URL says, which can't be a Unix socket: NewTransport
// puts its own in the place of DialContext. So the caller puts the socket back.
func TestAUnixSocketIsReachedByADialContextSetAfterwards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := unstarted(false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	ours := transportOf(t, nil)
	tcp := ours.DialContext
	ours.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "socket.test:80" {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return tcp(ctx, network, addr)
	}
	assert.Equal(t, "socket.test", fetch(t, ours, "http://socket.test/"))
	other := serverOf(t, false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "tcp") })
	assert.Equal(t, "tcp", fetch(t, ours, other.URL))
}

// hooks notes which hooks of httptrace are called.
func hooks(notes *[]string) *httptrace.ClientTrace {
	var mu sync.Mutex
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		*notes = append(*notes, s)
	}
	return &httptrace.ClientTrace{
		GetConn:              func(string) { note("GetConn") },
		GotConn:              func(httptrace.GotConnInfo) { note("GotConn") },
		PutIdleConn:          func(error) { note("PutIdleConn") },
		GotFirstResponseByte: func() { note("GotFirstResponseByte") },
		Got100Continue:       func() { note("Got100Continue") },
		DNSStart:             func(httptrace.DNSStartInfo) { note("DNSStart") },
		DNSDone:              func(httptrace.DNSDoneInfo) { note("DNSDone") },
		ConnectStart:         func(string, string) { note("ConnectStart") },
		ConnectDone:          func(string, string, error) { note("ConnectDone") },
		TLSHandshakeStart:    func() { note("TLSHandshakeStart") },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { note("TLSHandshakeDone") },
		WroteHeaders:         func() { note("WroteHeaders") },
		Wait100Continue:      func() { note("Wait100Continue") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("WroteRequest") },
	}
}

// traced returns the hooks that two requests have called, each once.
func traced(t *testing.T, rt http.RoundTripper, url string) []string {
	var notes []string
	for range 2 {
		req := newReq(t, "POST", url, strings.NewReader("body"))
		req.Header.Set("Expect", "100-continue")
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), hooks(&notes)))
		_, _ = send(t, rt, req)
	}
	slices.Sort(notes)
	return notes
}

func TestTheHooksOfHTTPTraceAreCalledAsByDefault(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		theirs := trustOf(s)
		theirs.ExpectContinueTimeout = patience
		url := s.URL
		if !h2 { // whose certificate isn't for localhost
			url = "http://localhost:" + port
		}
		ours := transportOf(t, theirs)
		standard := theirs.Clone()
		defer standard.CloseIdleConnections()
		calm(ours)
		calm(standard)
		want := traced(t, standard, url)
		assert.Equal(t, want, traced(t, ours, url))

		c := clientOf(t, nil, func(cfg *Config) { cfg.Transport = theirs })
		ofDial := []string{"DNSStart", "DNSDone", "ConnectStart", "ConnectDone", "TLSHandshakeStart", "TLSHandshakeDone"}
		want = slices.DeleteFunc(want, func(hook string) bool { return slices.Contains(ofDial, hook) })
		assert.Equal(t, want, traced(t, c, url), "by a Client, those of the dial are not")
	})
}

func TestARequestIsCanceledAtLevel1(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		arrived, gone := make(chan bool), make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			arrived <- true
			<-r.Context().Done()
			close(gone)
		})
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		require.NoError(t, err)
		go func() {
			<-arrived
			cancel()
		}()
		_, err = transportOf(t, trustOf(s)).RoundTrip(req)
		assert.ErrorIs(t, err, context.Canceled)
		<-gone
	})
}

func TestADialIsCanceledAtLevel1(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	// The kernel accepts; nobody answers the handshake.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+l.Addr().String(), nil)
	require.NoError(t, err)
	_, err = transportOf(t, nil).RoundTrip(req)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// proxyServer answers for all http hosts, and connects https ones to target.
func proxyServer(t testing.TB, target string, seen func(*http.Request)) *url.URL {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen(r)
		if r.Method != http.MethodConnect {
			_, _ = io.WriteString(w, "by proxy: "+r.URL.String())
			return
		}
		up, err := net.Dial("tcp", target)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		down, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			up.Close()
			return
		}
		// rw may hold what the client has sent since the answer.
		go func() { _, _ = io.Copy(up, rw); up.Close() }()
		go func() { _, _ = io.Copy(down, up); down.Close() }()
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return u
}
