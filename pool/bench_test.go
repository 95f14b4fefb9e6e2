package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/jackc/puddle/v2"
	"github.com/stretchr/testify/require"
)

const benchConns = 16

// peers is a listener that keeps what it accepts.
type peers struct {
	ln    net.Listener
	conns chan net.Conn
}

func newPeers(b testing.TB, n int) *peers {
	host := "127.0.0.1"
	if runtime.GOOS == "linux" { // a fresh address has no ports in TIME_WAIT
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	ln, err := net.Listen("tcp", host+":0")
	require.NoError(b, err)
	p := &peers{ln, make(chan net.Conn, n)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.conns <- c
		}
	}()
	b.Cleanup(func() {
		ln.Close()
		<-ended
		close(p.conns)
		for c := range p.conns {
			c.Close()
		}
	})
	return p
}

func (p *peers) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.ln.Addr().String())
}

func benchPool(b testing.TB, maxConns int) (*Pool[net.Conn], *peers) {
	return benchPoolTraced(b, maxConns, nil)
}

func benchPoolTraced(b testing.TB, maxConns int, t *Trace) (*Pool[net.Conn], *peers) {
	s := newPeers(b, maxConns)
	p, err := New(Config[net.Conn]{Open: s.dial, MaxConns: maxConns, MaxConnIdleTime: -1, MaxConcurrentOpens: 64, Trace: t})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, p.Close(context.Background())) })
	held := make([]Conn[net.Conn], maxConns)
	for i := range held {
		held[i], err = p.Acquire(context.Background())
		require.NoError(b, err)
	}
	for _, c := range held {
		c.Release()
	}
	return p, s
}

// watched is what bare puddle holds in these benchmarks: a connection, and the
// same peek that the pool uses.
type watched struct {
	net.Conn
	watch *health.Watch
}

func benchPuddle(b *testing.B) *puddle.Pool[watched] {
	s := newPeers(b, benchConns)
	g, err := health.NewGuard(health.GuardConfig{})
	require.NoError(b, err)
	p, err := puddle.NewPool(&puddle.Config[watched]{
		Constructor: func(ctx context.Context) (watched, error) {
			c, err := s.dial(ctx)
			if err != nil {
				return watched{}, err
			}
			w, err := g.Watch(c, nil, func(*health.Watch) {})
			return watched{c, w}, err
		},
		Destructor: func(w watched) { w.watch.Stop(); w.Close() },
		MaxSize:    benchConns,
	})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close(); g.Close() })
	for range benchConns {
		r, err := p.Acquire(context.Background())
		require.NoError(b, err)
		defer r.Release()
	}
	return p
}

// BenchmarkCheckout compares a checked checkout and return with bare puddle's
// without any check, both with a peek each time, and both with a look at when
// the peer was last heard as well. Compare rows of one run:
//
//	go test ./pool -run '^$' -bench Checkout -count 6
func BenchmarkCheckout(b *testing.B) {
	ctx := context.Background()
	for _, check := range []string{"default", "peek", "heard"} {
		for _, load := range []struct {
			goroutines int
			yield      bool
		}{{1, false}, {2, false}, {128, false}, {128, true}} {
			if check != "default" && load.goroutines > 2 {
				continue
			}
			name := func(impl string) string {
				return fmt.Sprintf("check=%s/goroutines=%d/yield=%v/impl=%s", check, load.goroutines, load.yield, impl)
			}
			b.Run(name("puddle"), func(b *testing.B) {
				p := benchPuddle(b)
				share(b, load.goroutines, func() {
					r, err := p.Acquire(ctx)
					if err != nil {
						panic(err)
					}
					if check != "default" && r.Value().watch.Sniff() != nil {
						panic("a healthy connection failed its check")
					}
					if check == "heard" {
						if _, ok := r.Value().watch.Heard(); !ok {
							panic("nobody knows when the peer was heard")
						}
					}
					if load.yield {
						runtime.Gosched()
					}
					r.Release()
				})
			})
			b.Run(name("pool"), func(b *testing.B) {
				p, _ := benchPool(b, benchConns)
				share(b, load.goroutines, func() {
					c, err := p.Acquire(ctx)
					if err != nil {
						panic(err)
					}
					if check != "default" {
						c.e.fastUntil = 0 // as if a millisecond had passed
					}
					if load.yield {
						runtime.Gosched()
					}
					c.Release()
					if check == "heard" {
						age(c.e)
					}
				})
			})
		}
	}
}

// age makes an idle connection one that has not been used for FreshFor.
func age[T any](e *entry[T]) {
	e.pool.mu.Lock()
	defer e.pool.mu.Unlock()
	if e.state == idle {
		e.idleSince, e.provenAt = -e.pool.freshFor, -e.pool.freshFor
	}
}

// share runs f b.N times, spread over goroutines.
func share(b *testing.B, goroutines int, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range goroutines {
		n := b.N / goroutines
		if i < b.N%goroutines {
			n++
		}
		wg.Go(func() {
			for range n {
				f()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

// BenchmarkHandOff has the holder do some work of its own after the release,
// which is when a connection given to a waiter lies idle until that runs.
func BenchmarkHandOff(b *testing.B) {
	ctx := context.Background()
	work := func() {
		for began := time.Now(); time.Since(began) < 5*time.Microsecond; {
		}
	}
	b.Run("impl=puddle", func(b *testing.B) {
		p := benchPuddle(b)
		share(b, 64, func() {
			r, _ := p.Acquire(ctx)
			runtime.Gosched()
			r.Release()
			work()
		})
	})
	b.Run("impl=pool", func(b *testing.B) {
		p, _ := benchPool(b, benchConns)
		share(b, 64, func() {
			c, _ := p.Acquire(ctx)
			runtime.Gosched()
			c.Release()
			work()
		})
	})
}

// BenchmarkDo is the convenient form, with a context that can end.
func BenchmarkDo(b *testing.B) {
	p, _ := benchPool(b, benchConns)
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	nothing := func(context.Context, net.Conn) error { return nil }
	for name, ctx := range map[string]context.Context{"background": context.Background(), "deadline": ctx} {
		b.Run("ctx="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Do(ctx, nothing); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFINToGone reports how long after the peer's close an idle
// connection has left the pool and is closed itself. That is a little more
// than what it takes to be gone, which nothing but the pool can see without
// getting in its way.
func BenchmarkFINToGone(b *testing.B) {
	closed := make(chan struct{})
	p, s := benchPoolTraced(b, 1, &Trace{ConnClosed: func(ConnClosed) { closed <- struct{}{} }})
	took := make([]time.Duration, 0, b.N)
	for range b.N {
		peer := <-s.conns
		began := time.Now()
		peer.Close()
		<-closed
		took = append(took, time.Since(began))
		c, err := p.Acquire(context.Background())
		require.NoError(b, err)
		c.Release()
	}
	go func() { <-closed }() // the last one, at Close
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTrace shows that a Trace that is off costs nothing.
func BenchmarkTrace(b *testing.B) {
	for _, row := range []struct {
		name  string
		trace *Trace
	}{
		{"off", nil},
		{"other hooks", &Trace{ConnClosed: func(ConnClosed) {}}},
		{"on", &Trace{AcquireDone: func(context.Context, AcquireDone) {}, ReleaseDone: func(ReleaseDone) {}}},
	} {
		b.Run("trace="+row.name, func(b *testing.B) {
			p, _ := benchPoolTraced(b, 1, row.trace)
			b.ReportAllocs()
			for b.Loop() {
				c, err := p.Acquire(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				c.Release()
			}
		})
	}
}

// BenchmarkIdleConn reports what an idle pooled connection costs over a bare
// net.Conn.
func BenchmarkIdleConn(b *testing.B) {
	for once := true; b.Loop(); once = false {
		if once {
			measureIdleConn(b)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func measureIdleConn(b *testing.B) {
	const n = 4_000
	s := newPeers(b, n)
	before := heap()
	bare := make([]net.Conn, n)
	for i := range bare {
		var err error
		bare[i], err = s.dial(context.Background())
		require.NoError(b, err)
	}
	for len(s.conns) < n {
		runtime.Gosched()
	}
	perBare := heap() - before
	goroutines := runtime.NumGoroutine()
	before = heap()
	p, _ := benchPool(b, n)
	perPooled := heap() - before
	b.ReportMetric(float64(perPooled-perBare)/n, "B/conn")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/conn")
	runtime.KeepAlive(p)
	for _, c := range bare {
		c.Close()
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestACheckoutAllocatesNothing(t *testing.T) {
	p, _ := benchPool(t, 1)
	ctx := context.Background()
	ways := []string{"fast", "with a peek", "with a look at when the peer was heard"}
	if raceEnabled {
		ways = ways[:2]
	}
	for _, name := range ways {
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			c, err := p.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if name != "fast" {
				c.e.fastUntil = 0
			}
			c.Release()
			if strings.Contains(name, "heard") {
				age(c.e)
			}
		}), name)
	}
	require.EqualValues(t, 1, p.Stat().Opened)
	require.Zero(t, p.Stat().Asked, "what was heard needs no question")
}
