package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nginxTimeout is every request's.
const nginxTimeout = 5 * time.Second

// overNginx runs a test for each protocol, against an nginx of its own.
func overNginx(t *testing.T, directives, locations string, test func(t *testing.T, n *nginx, protocol string)) {
	for _, protocol := range nginxProtocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			test(t, newNginx(t, directives, locations), protocol)
		})
	}
}

// tally is what became of requests.
type tally struct {
	mu    sync.Mutex
	ended map[string]error // by URI
}

func (c *tally) end(uri string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = map[string]error{}
	}
	c.ended[uri] = err
}

// failed returns the errors, and how many requests there were.
func (c *tally) failed() (errs []error, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uri, err := range c.ended {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", uri, err))
		}
	}
	return errs, len(c.ended)
}

// dropCut forgets those whose response was cut after it had begun: nobody can
// repeat them, and a server that is stopped at once does that.
func (c *tally) dropCut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uri, err := range c.ended {
		if _, cut := errors.AsType[cutShort](err); cut {
			delete(c.ended, uri)
		}
	}
}

func (c *tally) requireNoneFailed(t *testing.T, what string) int {
	t.Helper()
	errs, all := c.failed()
	require.NoError(t, errors.Join(errs...), "%d of %d %s failed", len(errs), all, what)
	return all
}

// ask sends a request and reads the response, which must be what nginx sends.
func (n *nginx) ask(c *Client, protocol, method, uri, body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), nginxTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, n.urls[protocol]+uri, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return cutShort{fmt.Errorf("reading the response: %w", err)}
	}
	if resp.StatusCode != http.StatusOK || string(got) != "done" || !strings.HasPrefix(protocol, strings.TrimSuffix(resp.Proto, ".0")) {
		return fmt.Errorf("%s %s %q", resp.Proto, resp.Status, got)
	}
	return nil
}

// load is requests by several workers, every postEach-th a POST.
type load struct {
	gets, posts tally
	working     sync.WaitGroup
	ids         atomic.Int64
}

func (l *load) one(n *nginx, c *Client, protocol string, postEach int) {
	id := l.ids.Add(1)
	uri := fmt.Sprintf("/do/%d", id)
	if postEach > 0 && id%int64(postEach) == 0 {
		l.posts.end(uri, n.ask(c, protocol, http.MethodPost, uri, uri))
		return
	}
	l.gets.end(uri, n.ask(c, protocol, http.MethodGet, uri, ""))
}

// start starts workers that send requests until ctx ends.
func (l *load) start(ctx context.Context, n *nginx, c *Client, protocol string, workers, postEach int) {
	for range workers {
		l.working.Go(func() {
			for ctx.Err() == nil {
				l.one(n, c, protocol, postEach)
				pause(ctx, time.Duration(mathrand.IntN(int(2*time.Millisecond))))
			}
		})
	}
}

// more waits until so many more GETs have ended.
func (l *load) more(t *testing.T, n *nginx, count int) {
	t.Helper()
	_, before := l.gets.failed()
	n.eventually(t, "requests end", func() bool {
		_, now := l.gets.failed()
		return now >= before+count
	})
}

// backend is what nginx passes requests on to. It takes its time, and counts
// POSTs by URI.
type backend struct {
	*httptest.Server
	mu       sync.Mutex
	executed map[string]int
}

func newBackend(t *testing.T) *backend {
	b := &backend{executed: map[string]int{}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			b.mu.Lock()
			b.executed[r.URL.Path]++
			b.mu.Unlock()
		}
		pause(r.Context(), 10*time.Millisecond)
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(b.Close)
	return b
}

// requireOnceEach requires that those POSTs that succeeded were executed, and
// none twice.
func (b *backend) requireOnceEach(t *testing.T, posts *tally) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	posts.mu.Lock()
	defer posts.mu.Unlock()
	for uri, err := range posts.ended {
		require.LessOrEqual(t, b.executed[uri], 1, uri)
		if err == nil {
			require.Equal(t, 1, b.executed[uri], uri)
		}
	}
}
