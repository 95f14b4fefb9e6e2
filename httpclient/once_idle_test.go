package httpclient

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A server closes connections that were idle for 100 ms, and each request begins
// around then.
func TestRequestsThatMeetTheEndOfAnIdleConnection(t *testing.T) {
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		for _, off := range []time.Duration{-time.Millisecond, 0, time.Millisecond} {
			tests[fmt.Sprintf("%v, GET, %v", k, off)] = func(t *testing.T) { meetTheEnd(t, k, off, http.MethodGet) }
			tests[fmt.Sprintf("%v, POST, %v", k, off)] = func(t *testing.T) { meetTheEnd(t, k, off, http.MethodPost) }
		}
	}
	together(t, tests)
}

func meetTheEnd(t *testing.T, k kind, off time.Duration, method string) {
	const idle, rounds = 100 * time.Millisecond, 10
	lanes := 10
	if k == http2 {
		lanes = 4 // each makes a TLS handshake in each round, beside all others
		if raceEnabled {
			lanes = 2
		}
	}
	c := newClient(t, k, Config{})
	ex := newExecutor(nil)
	var failed atomic.Int64
	var wg sync.WaitGroup
	for lane := range lanes { // a host each
		ln := listenLocal(t, "127.0.0.1:0")
		serveOn(t, k, ln, &http.Server{Handler: ex, IdleTimeout: idle})
		url := urlOf(k, ln.Addr().String())
		wg.Go(func() {
			for round := range rounds + 1 { // the first one opens the connection
				var err error
				if method == http.MethodGet {
					_, err = get(t.Context(), c, url)
				} else {
					err = ex.post(t.Context(), c, url, fmt.Sprint(lane, " ", round), withGetBody)
				}
				if err != nil {
					failed.Add(1)
				}
				<-time.After(idle + off)
			}
		})
	}
	wg.Wait()
	s := c.Stat()
	var opened int64
	for _, h := range s.Hosts {
		opened += h.Conns.Opened
	}
	t.Logf("%d of %d failed, %d were repeated, %d connections", failed.Load(), lanes*rounds, s.Retries, opened)
	if method == http.MethodGet {
		assert.Zero(t, failed.Load())
		return
	}
	ex.onlyOnce(t)
}

// A server closes each connection when the second request arrives on it, which is
// the same race, lost every time.
func TestNoGETFailsWhenTheServerAlwaysClosesFirst(t *testing.T) {
	t.Parallel()
	const n = 100
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprint("reset ", reset), func(t *testing.T) {
			t.Parallel()
			ln := listenLocal(t, "127.0.0.1:0")
			ex := newExecutor(nil)
			serveOn(t, http1, closesEarly{ln, reset}, &http.Server{Handler: ex})
			url := urlOf(http1, ln.Addr().String())
			c := newClient(t, http1, Config{})
			calm(c.inner)
			for range n {
				_, err := get(t.Context(), c, url)
				require.NoError(t, err)
			}
			assert.EqualValues(t, n-1, c.Stat().Retries)
			assert.Equal(t, n, ex.executed())
			failed := 0
			for i := range n {
				if ex.post(t.Context(), c, url, fmt.Sprint("id ", i), withGetBody) != nil {
					failed++
				}
			}
			t.Logf("%d of %d POSTs failed", failed, n)
			assert.NotZero(t, failed, "nobody knows that they were not executed")
			ex.onlyOnce(t)
		})
	}
}

// closesEarly accepts connections that end when something arrives after the first
// response.
type closesEarly struct {
	net.Listener
	reset bool
}

func (l closesEarly) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &closingEarly{Conn: c, reset: l.reset}, nil
}

type closingEarly struct {
	net.Conn
	reset    bool
	answered atomic.Bool
	arrived  bytes.Buffer
}

func (c *closingEarly) Read(p []byte) (int, error) {
	if c.arrived.Len() == 0 {
		b := make([]byte, 64<<10)
		n, err := c.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		if c.answered.Load() {
			if c.reset {
				_ = c.Conn.(*net.TCPConn).SetLinger(0)
			}
			c.Conn.Close()
			return 0, io.EOF
		}
		c.arrived.Write(b[:n])
	}
	return c.arrived.Read(p)
}

func (c *closingEarly) Write(p []byte) (int, error) {
	c.answered.Store(true)
	return c.Conn.Write(p)
}
