package httpclient

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

func TestResponsesThatNobodyClosesFreeTheirConnectionsWhenTheirContextsEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		t.Parallel()
		s := unstarted(h2, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 100_000)) })
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2}
		start(t, s, h2)
		c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost = 2 })
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
			require.NoError(t, err)
			resp, err := c.RoundTrip(req)
			cancel()
			require.NoError(t, err)
			_ = resp // it isn't closed
		}
	})
}

func TestAnErrorIsNoProofIfTheFirstOfItsAttemptsMayHaveBeenExecuted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	served := after(func() error {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		l.Close() // there is nobody for the second attempt
		defer conn.Close()
		_, err = http.ReadRequest(bufio.NewReader(conn))
		_ = conn.(*net.TCPConn).SetLinger(0)
		return err
	})
	c := clientOf(t, nil, failFast)
	err = failing(t, c, newReq(t, "PUT", "http://"+l.Addr().String(), nil))
	require.NoError(t, <-served)
	assert.False(t, health.SafeToRetry(err), "it was executed: %v", err)
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok)
	assert.Equal(t, 2, e.Attempts)
	assert.True(t, health.SafeToRetry(e.Err), "the last one alone")

	err = failing(t, c, newReq(t, "PUT", "http://"+refusing(t), nil))
	assert.True(t, health.SafeToRetry(err), "nobody was there: %v", err)
}

func TestARepetitionSharesTheOnlyConnectionWithALongStream(t *testing.T) {
	var requests atomic.Int32
	arrived, finish := make(chan bool), make(chan func(), 1)
	url := frameServer(t, func(f frames, stream uint32) {
		switch requests.Add(1) {
		case 1:
			finish <- func() { f.ok(stream) }
			arrived <- true
		case 2:
			f.reset(stream, refusedStream)
		default:
			f.ok(stream)
		}
	})
	c := clientOf(t, nil, inClear, func(cfg *Config) { cfg.MaxConnsPerHost = 1 })
	long := after(func() error { return try(t.Context(), c, url) })
	<-arrived
	_, _ = send(t, c, newReq(t, "POST", url, nil))
	assert.EqualValues(t, 1, c.Stat().Retries)

	// And one whose connection has broken, which wants one that was proven since.
	cn, err := c.all()[0].acquire(t.Context(), c.now())
	if assert.NoError(t, err) {
		cn.unused()
	}
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	(<-finish)()
	assert.NoError(t, <-long)
}

// slowToClose is a request's body that keeps net/http from ending the stream after
// the response.
type slowToClose struct {
	io.Reader
	let chan struct{}
}

func (b slowToClose) Close() error {
	<-b.let
	return nil
}

func TestAConnectionWithOneStreamIsKeptThoughItsStreamEndsLate(t *testing.T) {
	s := unstarted(true, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	})
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
	start(t, s, true)
	c := clientOf(t, s)
	for range 3 {
		body := slowToClose{strings.NewReader("body"), make(chan struct{})}
		resp, err := c.RoundTrip(newReq(t, "POST", s.URL, body))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		assert.NoError(t, err)
		close(body.let)
		resp.Body.Close()
	}
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
}

func TestABodyThatNobodyHasReadCanBeSentAgain(t *testing.T) {
	for name, body := range map[string]func() io.ReadCloser{
		"NopCloser":               func() io.ReadCloser { return io.NopCloser(io.MultiReader(strings.NewReader("hello"))) },
		"NopCloser with WriterTo": func() io.ReadCloser { return io.NopCloser(strings.NewReader("hello")) },
		"of one's own":            func() io.ReadCloser { return bodyOf("hello") },
	} {
		t.Run(name, func(t *testing.T) {
			req := newReq(t, "POST", "http://name.test", nil)
			req.Body = body()
			out := outgoing{req: req, current: req.Body}
			first, err := out.next(true)
			require.NoError(t, err)
			assert.NoError(t, first.Body.Close())
			require.True(t, out.again())
			_, err = first.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, errRevoked, "the first attempt may not read now")
			second, err := out.next(true)
			require.NoError(t, err)
			b, err := io.ReadAll(second.Body)
			assert.NoError(t, err)
			assert.Equal(t, "hello", string(b))
			assert.False(t, out.again(), "it was read")
		})
	}
}

func TestAnErrorOfOneRequestDoesNotStayWithItsConnection(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, newHolding(t).ServeHTTP)
		c := clientOf(t, s)
		for range 3 {
			fetch(t, c, s.URL)
			req := newReq(t, "GET", s.URL, nil)
			req.Header.Set("X", "a\nb")
			assert.ErrorContains(t, failing(t, c, req), "invalid header")
		}
		fetch(t, c, s.URL)
		allFree(t, c)
		h := c.all()[0]
		h.mu.Lock()
		defer h.mu.Unlock()
		for cn := range h.conns {
			cn.mu.Lock()
			assert.NoError(t, cn.failed)
			cn.mu.Unlock()
		}
		assert.EqualValues(t, 1, h.pool.Stat().Opened)
	})
}

func TestNewTellsTheTraceNothing(t *testing.T) {
	var told atomic.Int32
	c, err := New(Config{MinIdleConnsPerHost: 1, Trace: &Trace{
		OpenDone:   func(OpenDone) { told.Add(1) },
		ConnState:  func(Host, health.StateChange) { told.Add(1) },
		ConnClosed: func(ConnClosed) { told.Add(1) },
		Retry:      func(context.Context, Retry) { told.Add(1) },
		Moved:      func(Moved) { told.Add(1) },
	}})
	require.NoError(t, err)
	assert.NoError(t, c.Close(t.Context()))
	assert.Zero(t, told.Load())
}

func TestARetryBudgetTooSmallToCountIsRefused(t *testing.T) {
	for budget, good := range map[float64]bool{0: true, -1: true, 0.001: true, 1: true, 0.0005: false, 1.1: false} {
		c, err := New(Config{RetryBudget: budget})
		if good {
			if assert.NoError(t, err, "%v", budget) {
				assert.NoError(t, c.Close(t.Context()))
			}
		} else {
			assert.ErrorContains(t, err, "RetryBudget", "%v", budget)
		}
	}
	var b budget
	b.init(0.001)
	assert.NotZero(t, b.part)
}

func TestKeepAliveHeadersAreUnderstood(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"timeout=5":                    4 * time.Second,
		"timeout=0":                    time.Millisecond,
		"timeout=1":                    time.Millisecond,
		"timeout=75, max=100":          67500 * time.Millisecond,
		"max=5, timeout=30":            27 * time.Second,
		"Timeout=30":                   27 * time.Second,
		"timeout = 30":                 27 * time.Second,
		`timeout="30"`:                 27 * time.Second,
		"timeout=99999999999999999999": 0,
		"timeout=":                     0,
		"timeout=-1":                   0,
		"timeout":                      0,
		"":                             0,
	} {
		cn := &conn{}
		cn.heed(http.Header{"Keep-Alive": {header}})
		assert.Equal(t, want, time.Duration(cn.idleFor.Load()), header)
	}
}

func TestAKeepAliveHeadersLimitIsObeyed(t *testing.T) {
	t.Parallel()
	addr := tcpServer(t, answers("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\nContent-Length: 2\r\n\r\nok"))
	c := clientOf(t, nil)
	begun := time.Now()
	fetch(t, c, "http://"+addr)
	fetch(t, c, "http://"+addr)
	if time.Since(begun) < time.Second {
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	}
	fetch(t, c, "http://"+addr)
	last := time.Now()
	require.True(t, eventually(patience, func() bool { return time.Since(last) > 1100*time.Millisecond }))
	before := onlyHost(t, c).Conns.Opened
	fetch(t, c, "http://"+addr)
	s := onlyHost(t, c).Conns
	assert.Equal(t, before+1, s.Opened, "it had lain for half of what the server said")
	assert.Equal(t, before, s.Closed(pool.ReasonIdle))
}
