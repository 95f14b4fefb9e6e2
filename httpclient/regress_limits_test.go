package httpclient

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/pool"
)

func TestConnectionsAreReplacedByAgeUnderLoadAndNoRequestFails(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		const lifetime, jitter = 400 * time.Millisecond, 300 * time.Millisecond
		l := listenLocal(t, "127.0.0.1:0")
		serveOn(t, k, l, &http.Server{Handler: newHolding(t)})
		var mu sync.Mutex
		var early, tooEarly, others int
		c := newClient(t, k, Config{
			MaxConnLifetime: lifetime, MaxConnLifetimeJitter: jitter,
			Trace: &Trace{ConnClosed: func(cl ConnClosed) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case cl.Reason != pool.ReasonLifetime:
					others++
				case cl.Age < lifetime-jitter:
					tooEarly++
				case cl.Age < lifetime:
					early++
				}
			}},
		})
		calm(c.inner)
		traffic := begin(t, c, urlOf(k, l.Addr().String()), 8)
		assert.True(t, eventually(patience, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return early >= 3 && c.Stat().Hosts[0].Conns.Closed(pool.ReasonLifetime) >= 5
		}), "%+v", c.Stat())
		traffic.failsNone(t)
		mu.Lock()
		defer mu.Unlock()
		assert.Zero(t, tooEarly)
		assert.Zero(t, others)
		assert.Zero(t, c.Stat().Retries)
	})
}

func TestMaxConnRequestsIsExact(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		const limit = 7
		var mu sync.Mutex
		served := make(map[string]int)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			served[r.RemoteAddr]++
		})
		counts := func() (counts []int) {
			mu.Lock()
			defer mu.Unlock()
			for _, n := range served {
				counts = append(counts, n)
			}
			clear(served)
			return counts
		}
		c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnRequests = limit })
		for range 3 * limit {
			fetch(t, c, s.URL)
		}
		assert.Equal(t, []int{limit, limit, limit}, counts(), "one after the other")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 * limit {
					fetch(t, c, s.URL)
				}
			})
		}
		wg.Wait()
		sum := 0
		for _, n := range counts() {
			assert.LessOrEqual(t, n, limit, "together")
			sum += n
		}
		assert.Equal(t, 80*limit, sum)
		allFree(t, c)
		assert.EqualValues(t, onlyHost(t, c).Conns.ClosedAll(), onlyHost(t, c).Conns.Closed(pool.ReasonLifetime))
	})
}

func TestHostsWithoutRequestsAreForgottenWithTheirConnections(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		var servers census
		urls := servers.serve(t, k, 3)
		c := newClient(t, k, Config{HostIdleTime: 50 * time.Millisecond, MinIdleConnsPerHost: 1})
		for _, u := range urls {
			assert.NoError(t, try(t.Context(), c, u))
		}
		assert.True(t, eventually(patience, func() bool {
			servers.mu.Lock()
			defer servers.mu.Unlock()
			return len(c.Stat().Hosts) == 0 && len(servers.conns) == 0
		}))
		hold(t, c, urls[0], 1) // or it may be forgotten again
		s := onlyHost(t, c)
		assert.EqualValues(t, 1, s.Requests, "its numbers begin anew")
		assert.EqualValues(t, 1, s.Conns.Acquired)
	})
}

func TestNoRequestFailsWhileItsHostIsBeingForgotten(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		var servers census
		url := servers.serve(t, k, 1)[0]
		c := newClient(t, k, Config{HostIdleTime: 2 * time.Millisecond, RefreshPeriod: -1})
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for range 200 {
			<-tick.C
			_, err := get(t.Context(), c, url)
			require.NoError(t, err)
		}
		assert.Greater(t, servers.opened.Load(), int64(1), "it was forgotten")
	})
}

func TestSparesAreKeptBesideWhatIsInUse(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		t.Parallel()
		held := newHolding(t)
		s := serverOf(t, h2, held.ServeHTTP)
		c := clientOf(t, s, func(cfg *Config) { cfg.MinIdleConnsPerHost = 3 })
		spares := func(inUse int) {
			t.Helper()
			var last pool.Stat
			assert.True(t, eventually(patience, func() bool {
				last = onlyHost(t, c).Conns
				return last.InUse == inUse && last.Idle >= 3
			}), "%+v", &last)
		}
		fetch(t, c, s.URL)
		spares(0)
		hold(t, c, s.URL, 2)
		if h2 {
			spares(1)
		} else {
			spares(2)
		}
		held.release()
		allFree(t, c)
		before := onlyHost(t, c).Conns.Opened
		s.CloseClientConnections()
		assert.True(t, eventually(patience, func() bool { return onlyHost(t, c).Conns.Opened >= before+3 }))
		spares(0)
	})
}

func TestTheNumbersOfAStatAddUp(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		const conns = 3
		streams := 1
		held := newHolding(t)
		s := unstarted(h2, held.ServeHTTP)
		if h2 {
			streams = 2
			s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
		}
		start(t, s, h2)
		c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost = conns })
		fetch(t, c, s.URL)
		hold(t, c, s.URL, conns*streams)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { assert.Equal(t, "ok", fetch(t, c, s.URL)) })
		}
		waitFor(t, c, 5)
		full := onlyHost(t, c)
		assert.Equal(t, h2, full.HTTP2)
		assert.Equal(t, conns*streams+5, full.InFlight)
		assert.EqualValues(t, conns*streams+5+1, full.Requests)
		assert.Equal(t, conns, full.Conns.InUse)
		assert.Zero(t, full.Conns.Idle)
		held.release()
		wg.Wait()
		allFree(t, c)
		rest := onlyHost(t, c)
		assert.Equal(t, conns, rest.Conns.Idle)
		assert.Zero(t, rest.Conns.ClosedAll())
		c.CloseIdleConnections()
		assert.True(t, eventually(patience, func() bool { return onlyHost(t, c).Conns.Total == 0 }))
		assert.EqualValues(t, conns, onlyHost(t, c).Conns.Closed(pool.ReasonIdle), "%+v", onlyHost(t, c).Conns)
	})
}

func TestTheNumbersOfAStatAddUpUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		t.Parallel()
		var n atomic.Int64
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%17 == 0 {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, "ok")
		})
		c := clientOf(t, s, func(cfg *Config) {
			cfg.MaxConnsPerHost, cfg.MaxConnRequests, cfg.RetryBudget, cfg.MaxAttempts = 4, 20, 1, 10
		})
		l := begin(t, c, s.URL, 16)
		eventually(patience, func() bool {
			for _, h := range c.Stat().Hosts {
				p := h.Conns
				assert.Equal(t, p.Total, p.InUse+p.Idle+p.Suspect+p.Opening+p.Closing)
				assert.LessOrEqual(t, p.Total, 4)
				assert.LessOrEqual(t, h.InFlight, 16)
				assert.LessOrEqual(t, h.Waiting, 16)
			}
			return n.Load() > 2000
		})
		l.stop()
		assert.Greater(t, n.Load(), int64(200))
		allFree(t, c)
		h := onlyHost(t, c)
		assert.Equal(t, l.done.Load(), h.Requests)
		sum := int64(0)
		for why := pool.ReasonDead; fmt.Sprint(why) != "unknown"; why++ {
			sum += h.Conns.Closed(why)
		}
		assert.Equal(t, sum, h.Conns.ClosedAll())
		assert.True(t, eventually(patience, func() bool {
			h := onlyHost(t, c).Conns
			return h.Opened == h.ClosedAll()+int64(h.Idle)
		}), "%+v", onlyHost(t, c).Conns)
	})
}
