package httpclient

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func listenLocal(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return ln
}

// executor is a handler that counts how often each id is executed, which it is as
// soon as the request was read.
type executor struct {
	do func(id string, nth int, r *http.Request)

	mu    sync.Mutex
	times map[string]int
}

func newExecutor(do func(id string, nth int, r *http.Request)) *executor {
	return &executor{do: do, times: map[string]int{}}
}

func (e *executor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id := string(b)
	e.mu.Lock()
	e.times[id]++
	nth := e.times[id]
	e.mu.Unlock()
	if e.do != nil {
		e.do(id, nth, r)
	}
	_, _ = io.WriteString(w, "ok")
}

// executed is how many requests were.
func (e *executor) executed() (n int) {
	for _, times := range e.all() {
		n += times
	}
	return n
}

func (e *executor) all() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.times)
}

// manner is how a POST is made.
type manner string

const (
	withGetBody    manner = "with GetBody"
	withoutGetBody manner = "without GetBody"
	withKey        manner = "with Idempotency-Key"
)

// post has an id executed.
func (e *executor) post(ctx context.Context, rt http.RoundTripper, url, id string, m manner) error {
	body := io.Reader(strings.NewReader(id))
	if m == withoutGetBody {
		body = struct{ io.Reader }{body}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return err
	}
	if m == withKey {
		req.Header.Set("Idempotency-Key", id)
	}
	answer, err := exchange(rt, req)
	if err == nil && answer != "ok" {
		err = errors.New("the answer is " + answer)
	}
	return err
}

// What the server's limit is nobody knows yet.
func TestTheFirstRequestsToAnHTTP2HostShareOneConnection(t *testing.T) {
	t.Parallel()
	const n = 20
	ln := listenLocal(t, "127.0.0.1:0")
	serveOn(t, http2, ln, &http.Server{Handler: meeting(n, nil)})
	c := newClient(t, http2, Config{})
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := get(t.Context(), c, urlOf(http2, ln.Addr().String())+"/meet")
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	assert.EqualValues(t, 1, c.Stat().Hosts[0].Conns.Opened)
}
