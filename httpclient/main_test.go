package httpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestMain(m *testing.M) {
	netlab.Parallel()
	goleak.VerifyTestMain(m)
}

// allowed is what something may take here that is promised within a time.
func allowed(within time.Duration) time.Duration {
	if raceEnabled {
		within += time.Second
	}
	return within
}

// kind is a protocol to test with.
type kind string

const (
	http1 kind = "HTTP/1.1"
	http2 kind = "HTTP/2" // with TLS
)

// forKinds runs a test with each protocol, beside each other.
func forKinds(t *testing.T, test func(t *testing.T, k kind)) {
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		tests[string(k)] = func(t *testing.T) { test(t, k) }
	}
	together(t, tests)
}

// together runs tests beside each other, however many go test would: they mostly
// wait.
func together(t *testing.T, tests map[string]func(t *testing.T)) {
	var wg sync.WaitGroup
	for name, test := range tests {
		wg.Go(func() { t.Run(name, test) })
	}
	wg.Wait()
}

// certified returns a certificate for example.com, and what trusts it.
var certified = sync.OnceValues(func() (tls.Certificate, *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	trust := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.ServerName, trust.NextProtos = "example.com", nil
	return s.TLS.Certificates[0], trust
})

// trusting returns what a Transport starts from that is to speak a protocol with
// a server of serveOn's.
func trusting(k kind) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if k == http2 {
		_, trust := certified()
		t.TLSClientConfig = trust.Clone()
	}
	return t
}

// urlOf is the URL of a server of serveOn's.
func urlOf(k kind, addr string) string {
	if k == http2 {
		return "https://" + addr
	}
	return "http://" + addr
}

// serveOn serves HTTP of a kind until the test ends, or the server is closed.
func serveOn(t testing.TB, k kind, ln net.Listener, srv *http.Server) {
	t.Helper()
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(k == http1)
	srv.Protocols.SetHTTP2(k == http2)
	cert, _ := certified()
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.ErrorLog = log.New(io.Discard, "", 0)
	var running sync.WaitGroup
	running.Go(func() {
		if k == http2 {
			_ = srv.ServeTLS(ln, "", "")
		} else {
			_ = srv.Serve(ln)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		running.Wait()
	})
}

// newClient returns a Client for servers of serveOn's that is closed with the test.
func newClient(t testing.TB, k kind, cfg Config) *Client {
	t.Helper()
	cfg.Transport = trusting(k)
	c, err := New(cfg)
	require.NoError(t, err)
	closeAtEnd(t, c)
	return c
}

func closeAtEnd(t testing.TB, c *Client) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = c.Close(ctx) // what a test gave up may still be in flight
	})
}

// exchange sends a request and reads the answer. Its error is also that of a
// status other than 200.
func exchange(rt http.RoundTripper, req *http.Request) (answer string, err error) {
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "", cutShort{err}
	}
	if res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return string(b), err
}

// cutShort is the error of a response that had begun, whose request no
// RoundTripper can repeat.
type cutShort struct{ error }

func (e cutShort) Unwrap() error { return e.error }

func isCutShort(err error) bool {
	_, ok := errors.AsType[cutShort](err)
	return ok
}

// getWithin makes a GET with a deadline, and returns how long it took.
func getWithin(ctx context.Context, rt http.RoundTripper, url string, limit time.Duration) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	defer func() { took = time.Since(begun) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	answer, err := exchange(rt, req)
	if err == nil && answer != "ok" {
		err = errors.New("the answer is " + answer)
	}
	return 0, err
}

// get makes a request as a careful user does: with 5 s for the answer.
func get(ctx context.Context, rt http.RoundTripper, url string) (time.Duration, error) {
	return getWithin(ctx, rt, url, 5*time.Second)
}

// eventually waits until something is so, but no longer than that.
func eventually(within time.Duration, so func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !so(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// meeting is a handler that answers requests to /meet when n of them wait, those
// to /first from the second on, and all others at once.
func meeting(n int, arrived chan<- string) http.Handler {
	var mu sync.Mutex
	var waiting int
	var begun bool
	met := make(chan struct{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		switch r.URL.Path {
		case "/meet":
			if waiting++; waiting == n {
				close(met)
			}
			mu.Unlock()
			select {
			case <-met:
			case <-r.Context().Done():
			}
		case "/first":
			first := !begun
			begun = true
			mu.Unlock()
			if first {
				arrived <- r.Method
				<-r.Context().Done()
			}
		default:
			mu.Unlock()
		}
		_, _ = io.WriteString(w, "ok")
	})
}

// after returns what f returns, when it has.
func after[V any](f func() V) <-chan V {
	ch := make(chan V, 1)
	go func() { ch <- f() }()
	return ch
}
