package httpclient

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what happens at once.
const patience = 10 * time.Second

// onBoth runs a test over HTTP/1.1, and over HTTP/2 with TLS.
func onBoth(t *testing.T, test func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		name := "HTTP/1.1"
		if h2 {
			name = "HTTP/2"
		}
		t.Run(name, func(t *testing.T) { test(t, h2) })
	}
}

// serverOf starts a server: HTTP/1.1 in clear, or HTTP/2 over TLS.
func serverOf(t testing.TB, h2 bool, handler http.HandlerFunc) *httptest.Server {
	s := unstarted(h2, handler)
	start(t, s, h2)
	return s
}

func unstarted(h2 bool, handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = h2
	s.Config.ErrorLog = quiet
	return s
}

// trustOf returns a Transport that trusts s, if that isn't nil.
func trustOf(s *httptest.Server) *http.Transport {
	t := &http.Transport{ForceAttemptHTTP2: true}
	if s != nil && s.TLS != nil {
		t.TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		t.TLSClientConfig.NextProtos = nil
	}
	return t
}

// clientOf returns a calm Client for s. When the test ends no request may be left,
// nor any connection in use.
func clientOf(t testing.TB, s *httptest.Server, change ...func(*Config)) *Client {
	c := uncalmClientOf(t, s, change...)
	calm(c.inner)
	return c
}

// uncalmClientOf is clientOf for servers that answer before they have read the
// request.
func uncalmClientOf(t testing.TB, s *httptest.Server, change ...func(*Config)) *Client {
	cfg := Config{Transport: trustOf(s)}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		allFree(t, c)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		assert.NoError(t, c.Close(ctx))
	})
	return c
}

// allFree waits until no request is left and no connection in use.
func allFree(t testing.TB, c *Client) {
	t.Helper()
	var last HostStat
	assert.True(t, eventually(patience, func() bool {
		for _, last = range c.Stat().Hosts {
			if last.InFlight != 0 || last.Waiting != 0 || last.Conns.InUse != 0 {
				return false
			}
		}
		return true
	}), "requests or connections are left in use: %+v", &last)
}

// onlyHost returns the numbers of a Client's only host.
func onlyHost(t testing.TB, c *Client) HostStat {
	t.Helper()
	s := c.Stat()
	require.Len(t, s.Hosts, 1)
	return s.Hosts[0]
}

func newReq(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	require.NoError(t, err)
	return req
}

// send sends a request that must succeed, and reads the response to its end.
func send(t testing.TB, rt http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func fetch(t testing.TB, rt http.RoundTripper, url string) string {
	t.Helper()
	_, b := send(t, rt, newReq(t, "GET", url, nil))
	return b
}

// tcpServer accepts connections on loopback and leaves each to serve, with its
// number. They are closed when serve returns, or the test ends.
func tcpServer(t testing.TB, serve func(c net.Conn, n int)) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting, wg sync.WaitGroup
	var conns sync.Map
	accepting.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(c, true)
			wg.Go(func() {
				defer c.Close()
				serve(c, n)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return l.Addr().String()
}

// answers is a raw server's that reads a request's header and writes reply, for
// each request there is.
func answers(reply string) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		for readHeader(r) != "" {
			if _, err := io.WriteString(c, reply); err != nil {
				return
			}
		}
	}
}

// readHeader reads the lines up to an empty one.
func readHeader(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return ""
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String()
		}
	}
}

// countedBody is a request's body that counts how often it is closed.
type countedBody struct {
	io.Reader
	closes atomic.Int32
}

func (b *countedBody) Close() error {
	b.closes.Add(1)
	return nil
}

func bodyOf(s string) *countedBody { return &countedBody{Reader: strings.NewReader(s)} }

// closedOnce waits for the body to be closed, and finds that it was, once.
func (b *countedBody) closedOnce(t testing.TB) {
	t.Helper()
	assert.True(t, eventually(patience, func() bool { return b.closes.Load() > 0 }), "the body was not closed")
	assert.EqualValues(t, 1, b.closes.Load(), "how often the body was closed")
}

// endless never ends, and never blocks.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// quiet is for servers whose clients misbehave on purpose.
var quiet = log.New(io.Discard, "", 0)

// start starts an unstarted server.
func start(t testing.TB, s *httptest.Server, h2 bool) {
	if h2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
}

func mustParse(t testing.TB, s string) *url.URL {
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}
