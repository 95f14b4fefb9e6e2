package httpclient

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stays reports whether something is so for as long.
func stays(d time.Duration, so func() bool) bool {
	return !eventually(d, func() bool { return !so() })
}

// holding is a handler that answers requests to /hold with a response that has
// begun, and ends when the test lets it.
type holding struct {
	held   atomic.Int64 // so far
	others atomic.Int64
	end    chan struct{}
	once   sync.Once
}

func newHolding(t testing.TB) *holding {
	h := &holding{end: make(chan struct{})}
	t.Cleanup(h.release)
	return h
}

func (h *holding) release() { h.once.Do(func() { close(h.end) }) }

func (h *holding) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hold" {
		h.held.Add(1)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-h.end:
		case <-r.Context().Done():
		}
	} else {
		h.others.Add(1)
	}
	_, _ = io.WriteString(w, "ok")
}

// hold begins n responses that last until the handler's release, or the test's
// end, and are read.
func hold(t testing.TB, rt http.RoundTripper, url string, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		reading.Wait()
	})
	for range n {
		req, err := http.NewRequestWithContext(ctx, "GET", url+"/hold", nil)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		reading.Go(func() {
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
		})
	}
}

// waitFor waits until n requests of a Client wait for a connection.
func waitFor(t testing.TB, c *Client, n int) {
	t.Helper()
	last := 0
	require.True(t, eventually(patience, func() bool {
		last = 0
		for _, h := range c.Stat().Hosts {
			last += h.Waiting
		}
		return last == n
	}), "%d requests wait, and not %d", last, n)
}

// try makes a GET, and returns its error.
func try(ctx context.Context, rt http.RoundTripper, url string) error {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	_, err = exchange(rt, req)
	return err
}

// steady makes GETs from some goroutines until it is stopped, and counts.
type steady struct {
	done, failed atomic.Int64
	end          chan struct{}
	running      sync.WaitGroup
}

// begin starts it. Each request has 5 s.
func begin(t testing.TB, rt http.RoundTripper, url string, workers int) *steady {
	l := &steady{end: make(chan struct{})}
	for range workers {
		l.running.Go(func() {
			for {
				select {
				case <-l.end:
					return
				default:
				}
				if _, err := get(context.Background(), rt, url); err != nil {
					if l.failed.Add(1) == 1 {
						t.Log("the first to fail:", err)
					}
				}
				l.done.Add(1)
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *steady) stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.running.Wait()
}

// failsNone ends it.
func (l *steady) failsNone(t testing.TB) {
	t.Helper()
	l.stop()
	assert.Zero(t, l.failed.Load(), "failed of %d", l.done.Load())
	assert.NotZero(t, l.done.Load())
}
