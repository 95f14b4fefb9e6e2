package httpclient

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var stressTime = flag.Duration("holdfast.stress", time.Second, "how long each variant of TestUnderStressAnswersBelongToTheirRequestsAndNothingIsLeft runs")

// unruly is a server's handler that does at random what servers do. Requests carry
// numbers.
type unruly struct {
	h2       bool
	executed sync.Map
	twice    atomic.Int64
}

func (u *unruly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Id")
	w.Header().Set("X-Id", id)
	if r.Method == "POST" {
		if _, was := u.executed.LoadOrStore(id, true); was {
			u.twice.Add(1)
		}
	}
	k := rand.IntN(100)
	switch {
	case k < 3:
		panic(http.ErrAbortHandler)
	case k < 6:
		w.Header().Set("Connection", "close")
	case k < 9:
		slow := time.NewTimer(rand.N(30 * time.Millisecond))
		defer slow.Stop()
		<-slow.C
	case k < 11 && !u.h2:
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		if k == 9 {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
		return
	case k < 13:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case k < 15:
		w.Header().Set("Keep-Alive", "timeout=1")
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%s|%d|%s", id, len(b), strings.Repeat("x", 3000*rand.IntN(3)))
	if k == 20 {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// caller sends such requests and treats the answers as badly.
type caller struct {
	rt                         http.RoundTripper
	url                        string
	ids, answered, wrong, late atomic.Int64
}

// randomBody returns a request's body of some kind, and what closedOnce is to be
// asked of.
func randomBody() (body io.Reader, size int, counted *countedBody) {
	size = rand.IntN(20_000)
	data := bytes.NewReader(make([]byte, size))
	switch rand.IntN(3) {
	case 0:
		return data, size, nil
	case 1:
		return io.NopCloser(data), size, nil
	}
	counted = &countedBody{Reader: data}
	return counted, size, counted
}

func (c *caller) once(t testing.TB) {
	id := fmt.Sprint(c.ids.Add(1))
	limit := patience
	if rand.IntN(10) == 0 {
		limit = rand.N(5 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	method, size := "GET", 0
	var body io.Reader
	var counted *countedBody
	if rand.IntN(2) == 0 {
		method = "POST"
		body, size, counted = randomBody()
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url, body)
	if !assert.NoError(t, err) {
		return
	}
	req.Header.Set("X-Id", id)
	resp, err := c.rt.RoundTrip(req)
	if err == nil {
		c.answered.Add(1)
		if resp.Header.Get("X-Id") != id {
			c.wrong.Add(1)
		}
		err = c.read(resp, cancel, fmt.Sprintf("%s|%d|", id, size))
	}
	if limit == patience && errors.Is(err, context.DeadlineExceeded) {
		c.late.Add(1)
		t.Log("it was stuck:", err)
	}
	if counted != nil {
		closed := func() bool { return counted.closes.Load() > 0 }
		assert.True(t, closed() || eventually(patience, closed), "the body is never closed: %v", err)
	}
}

// read reads an answer, or leaves it, or its request is canceled.
func (c *caller) read(resp *http.Response, cancel func(), begins string) (err error) {
	switch rand.IntN(8) {
	case 0:
		_, _ = resp.Body.Read(make([]byte, 5))
	case 1:
		var wg sync.WaitGroup
		wg.Go(cancel)
		wg.Go(func() { resp.Body.Close() })
		_, err = io.Copy(io.Discard, resp.Body)
		wg.Wait()
	default:
		var b []byte
		b, err = io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode == http.StatusOK && !strings.HasPrefix(string(b), begins) {
			c.wrong.Add(1)
		}
	}
	resp.Body.Close()
	resp.Body.Close()
	return err
}

// nothingLeft finds that no request, waiter or user is left at rest.
func nothingLeft(t testing.TB, c *Client) {
	t.Helper()
	allFree(t, c)
	for _, h := range c.all() {
		h.mu.Lock()
		assert.Zero(t, h.acquiring+h.first+h.leases+h.waiters.Len())
		assert.Zero(t, h.waiting.Load())
		assert.Empty(t, h.shared)
		for cn := range h.conns {
			cn.mu.Lock()
			assert.Zero(t, cn.users)
			assert.False(t, cn.leased)
			assert.Nil(t, cn.bodies)
			cn.mu.Unlock()
		}
		h.mu.Unlock()
	}
}

func TestUnderStressAnswersBelongToTheirRequestsAndNothingIsLeft(t *testing.T) {
	for _, v := range []struct {
		k       kind
		streams int
	}{{http1, 0}, {http2, 1}, {http2, 4}, {http2, 0}} {
		t.Run(fmt.Sprintf("%s, streams %d", v.k, v.streams), func(t *testing.T) {
			const limit = 12
			var servers census
			server := &unruly{h2: v.k == http2}
			l := listenLocal(t, "127.0.0.1:0")
			serveOn(t, v.k, l, &http.Server{Handler: server, ConnState: servers.watch, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: v.streams}})
			c := newClient(t, v.k, Config{
				MaxConnsPerHost: limit, MaxConns: limit, MaxConnRequests: 50, RetryBudget: 1,
				MaxConnLifetime: 200 * time.Millisecond, MaxConnIdleTime: 50 * time.Millisecond,
			})
			callers := caller{rt: c, url: urlOf(v.k, l.Addr().String())}
			var wg sync.WaitGroup
			end := time.Now().Add(*stressTime)
			for range 64 {
				wg.Go(func() {
					for time.Now().Before(end) {
						callers.once(t)
					}
				})
			}
			wg.Wait()
			nothingLeft(t, c)
			t.Logf("%d requests, %d answered, %d retries, at most %d connections", callers.ids.Load(), callers.answered.Load(), c.Stat().Retries, servers.most.Load())
			assert.Greater(t, callers.answered.Load(), callers.ids.Load()/2)
			assert.Zero(t, callers.wrong.Load(), "answers to others")
			assert.Zero(t, callers.late.Load(), "stuck")
			assert.Zero(t, server.twice.Load(), "POSTs executed twice")
			// What net/http is closing by itself may have its socket for a moment
			// longer than its slot.
			assert.LessOrEqual(t, servers.most.Load(), int64(limit+2))
			require.NoError(t, c.Close(t.Context()))
			assert.Empty(t, c.total.slots)
		})
	}
}

func TestCloseWhileRequestsRunLeavesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := unstarted(h2, newHolding(t).ServeHTTP)
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 3}
		start(t, s, h2)
		for range 8 {
			c, err := New(Config{
				Transport: trustOf(s), MaxConnsPerHost: 3, MaxConns: 3, MinIdleConnsPerHost: 1, HostIdleTime: 3 * time.Millisecond,
			})
			require.NoError(t, err)
			var wg sync.WaitGroup
			var done atomic.Int64
			for range 16 {
				wg.Go(func() {
					err := error(nil)
					for err == nil {
						err = try(context.Background(), c, s.URL)
						done.Add(1)
					}
					assert.ErrorIs(t, err, ErrClosed)
				})
			}
			enough := rand.Int64N(300)
			assert.True(t, eventually(patience, func() bool { return done.Load() >= enough }))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			for range 2 {
				wg.Go(func() { assert.NoError(t, c.Close(ctx)) })
			}
			wg.Wait()
			cancel()
			assert.True(t, eventually(patience, func() bool { return len(c.total.slots) == 0 }))
		}
	})
}

func TestThoseWhoLeaveTheFirstDialFailNobodyElse(t *testing.T) {
	s := serverOf(t, true, newHolding(t).ServeHTTP)
	for range 50 {
		c := clientOf(t, s)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if i%2 == 0 {
					stop := time.AfterFunc(time.Duration(i)*200*time.Microsecond, cancel)
					defer stop.Stop()
				}
				if err := try(ctx, c, s.URL); i%2 == 1 {
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		nothingLeft(t, c)
	}
}
