package httpclient

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// census counts the connections to several servers that their clients have not
// closed.
type census struct {
	mu     sync.Mutex
	conns  map[net.Conn]bool
	opened atomic.Int64
	most   atomic.Int64
}

// watch is a server's ConnState. Where the kernel can't be asked whether a client
// has closed a connection, only openings count.
func (s *census) watch(c net.Conn, state http.ConnState) {
	if tls, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = tls.NetConn()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.opened.Add(1)
		if s.conns == nil {
			s.conns = make(map[net.Conn]bool)
		}
		s.conns[c] = true
		// What was open when c was, and still is, was so at the same time.
		now := int64(0)
		for c := range s.conns {
			if established(c) {
				now++
			}
		}
		s.most.Store(max(s.most.Load(), now))
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, c)
	}
}

func established(c net.Conn) (yes bool) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil || runtime.GOOS != "linux" {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		var info sockopt.Info
		yes = sockopt.TCPInfo(fd, &info) == nil && info.State == sockopt.StateEstablished
	})
	return yes
}

// serve starts so many servers.
func (s *census) serve(t testing.TB, k kind, n int) (urls []string) {
	for range n {
		l := listenLocal(t, "127.0.0.1:0")
		serveOn(t, k, l, &http.Server{Handler: newHolding(t), ConnState: s.watch})
		urls = append(urls, urlOf(k, l.Addr().String()))
	}
	return urls
}

func TestMaxConnsHoldsOverManyHostsAndNobodyStarves(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		const hosts, callers, limit = 30, 60, 4
		var servers census
		urls := servers.serve(t, k, hosts)
		c := newClient(t, k, Config{MaxConns: limit})
		var served [hosts]atomic.Int64
		var all atomic.Int64
		var wg sync.WaitGroup
		rare := func() int64 {
			n := served[0].Load()
			for i := range served {
				n = min(n, served[i].Load())
			}
			return n
		}
		const enough, tooMany = 2, 5000 // with 4 hosts that give way to nobody it is tens of thousands
		for i := range callers {
			wg.Go(func() {
				for rare() < enough && all.Load() < tooMany && t.Context().Err() == nil {
					if !assert.NoError(t, try(t.Context(), c, urls[i%hosts])) {
						return
					}
					served[i%hosts].Add(1)
					all.Add(1)
				}
			})
		}
		wg.Wait()
		assert.GreaterOrEqual(t, rare(), int64(enough), "of %d requests, how many went to the host with the fewest", all.Load())
		assert.LessOrEqual(t, servers.most.Load(), int64(limit))
		if runtime.GOOS == "linux" {
			assert.EqualValues(t, limit, servers.most.Load())
		}
	})
}

func TestSparesAndTheTotalLimitComeToRest(t *testing.T) {
	t.Parallel()
	var servers census
	urls := servers.serve(t, http1, 3)
	c := newClient(t, http1, Config{MaxConns: 2, MinIdleConnsPerHost: 1})
	for _, u := range urls {
		assert.NoError(t, try(t.Context(), c, u))
	}
	// By the Client's numbers: a server may be late to accept.
	opened := func() (n int64) {
		for _, h := range c.Stat().Hosts {
			n += h.Conns.Opened
		}
		return n
	}
	var before int64 // what was asked for earlier may still be opened
	assert.True(t, eventually(patience, func() bool {
		before = opened()
		return stays(5*spareEvery, func() bool { return opened() == before })
	}), "connections are opened for nobody, %d by now", before)
}

func TestWaitingForASlotOfMaxConnsIsNoFailedOpen(t *testing.T) {
	for _, failFast := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/2 %t, FailFast %t", h2, failFast), func(t *testing.T) {
				t.Parallel()
				held := newHolding(t)
				busy, free := serverOf(t, h2, held.ServeHTTP), serverOf(t, h2, newHolding(t).ServeHTTP)
				const open = 2 * time.Second // enough for the opening itself on any machine
				c := clientOf(t, busy, func(cfg *Config) {
					cfg.MaxConns, cfg.OpenTimeout, cfg.FailFast = 1, open, failFast
				})
				hold(t, c, busy.URL, 1)
				waiting := after(func() error { return try(t.Context(), c, free.URL) })
				waitFor(t, c, 1)
				assert.True(t, stays(open+10*roomEvery, func() bool { return len(waiting) == 0 }))
				for _, h := range c.Stat().Hosts {
					assert.Zero(t, h.Conns.OpenFailed, h.Host)
				}
				held.release()
				assert.NoError(t, <-waiting)
			})
		}
	}
}

func TestARequestThatGivesUpWaitingForASlotTakesNone(t *testing.T) {
	held := newHolding(t)
	busy, free := serverOf(t, false, held.ServeHTTP), serverOf(t, false, newHolding(t).ServeHTTP)
	c := clientOf(t, nil, func(cfg *Config) { cfg.MaxConns = 1 })
	hold(t, c, busy.URL, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, try(ctx, c, free.URL), context.DeadlineExceeded)
	held.release()
	assert.NoError(t, try(t.Context(), c, free.URL))
}

func TestAPanicOfUserCodeWhileOpeningLosesNoSlot(t *testing.T) {
	s := serverOf(t, true, newHolding(t).ServeHTTP)
	proxy := "http://" + tcpServer(t, func(down net.Conn, _ int) {
		b := make([]byte, 4096)
		if _, err := down.Read(b); err != nil { // CONNECT
			return
		}
		up, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			return
		}
		_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		copied := after(func() error {
			_, _ = io.Copy(up, down)
			return up.Close()
		})
		_, _ = io.Copy(down, up)
		down.Close()
		<-copied
	})
	var asked atomic.Int32
	c := clientOf(t, s, failFast, func(cfg *Config) {
		cfg.MaxConns = 1
		cfg.Transport.Proxy = http.ProxyURL(mustParse(t, proxy))
		cfg.Transport.GetProxyConnectHeader = func(context.Context, *url.URL, string) (http.Header, error) {
			if asked.Add(1) <= 2 {
				panic("code of the user's")
			}
			return nil, nil
		}
	})
	for range 2 {
		assert.ErrorContains(t, failing(t, c, newReq(t, "GET", s.URL, nil)), "code of the user's")
	}
	assert.Equal(t, "ok", fetch(t, c, s.URL))
	assert.Len(t, c.total.slots, 1)
	require.NoError(t, c.Close(t.Context()))
	assert.Empty(t, c.total.slots)
}

func TestAConnectionThatWasToMakeRoomTooEarlyMakesItLater(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		first, second := serverOf(t, h2, newHolding(t).ServeHTTP), serverOf(t, h2, newHolding(t).ServeHTTP)
		opened, finish := make(chan bool, 1), make(chan bool)
		c := clientOf(t, first, func(cfg *Config) {
			cfg.MaxConns = 1
			cfg.Trace = &Trace{OpenDone: func(d OpenDone) {
				if d.Host.String() == first.URL {
					opened <- true
					<-finish
				}
			}}
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		one := after(func() error { return try(ctx, c, first.URL) })
		<-opened // but the pool doesn't have it yet
		cancel()
		assert.ErrorIs(t, <-one, context.Canceled)
		other := after(func() error { return try(t.Context(), c, second.URL) })
		assert.True(t, stays(5*roomEvery, func() bool { return len(other) == 0 }))
		close(finish) // it is idle now
		select {
		case err := <-other:
			assert.NoError(t, err)
		case <-time.After(patience):
			assert.Fail(t, "no room is made")
		}
	})
}
