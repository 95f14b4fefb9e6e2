package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

const (
	detectWithin = 5 * time.Second
	port         = 6379
)

// labPool is a pool in a lab's client, of connections to its server, and what
// it closed.
type labPool struct {
	*pool.Pool[net.Conn]
	closed chan pool.ConnClosed
	clock  *netlab.Clock
}

func newLabPool(t *testing.T, lab *netlab.Lab, edit func(*pool.Config[net.Conn])) labPool {
	d, err := dial.New(dial.Config{DetectWithin: detectWithin})
	require.NoError(t, err)
	dialer := lab.Client.Dialer(d.DialContext)
	closed := make(chan pool.ConnClosed, 10_000)
	cfg := pool.Config[net.Conn]{
		Open: func(ctx context.Context) (net.Conn, error) {
			return dialer(ctx, "tcp", lab.Server.Addr(port))
		},
		DetectWithin: detectWithin,
		Guard:        labGuard(t, lab),
		Trace:        &pool.Trace{ConnClosed: func(c pool.ConnClosed) { closed <- c }},
	}
	if edit != nil {
		edit(&cfg)
	}
	return labPool{newNetPool(t, cfg), closed, netlab.NewClock(t)}
}

// labGuard is a guard that finds out on the lab's client whether a new connection
// works, and nowhere else.
func labGuard(t *testing.T, lab *netlab.Lab) *health.Guard {
	g, err := health.NewGuard(health.GuardConfig{Dial: lab.Client.Dialer(nil)})
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

// since is how much time of this machine's has passed.
func (p labPool) since(began time.Time) time.Duration {
	return time.Since(began) - p.clock.Delayed(began)
}

// requireGone waits for n connections to leave the pool for a path's sake.
func (p labPool) requireGone(t *testing.T, n int, within time.Duration) {
	t.Helper()
	began, timeout := time.Now(), time.After(within+20*time.Second)
	for i := range n {
		select {
		case c := <-p.closed:
			require.Contains(t, []pool.Reason{pool.ReasonDead, pool.ReasonSilent}, c.Reason)
			require.Equal(t, health.Path, c.Class, "%v", c.Err)
		case <-timeout:
			t.Fatalf("%d of %d connections were gone", i, n)
		}
	}
	require.Less(t, p.since(began), allowed(within))
	require.Eventually(t, func() bool { return p.Stat().Total == 0 }, 10*time.Second, time.Millisecond)
}

// slack is for the scheduler of a busy machine, on top of what is promised.
const slack = time.Second

func TestASilentDropEmptiesThePoolWithinDetectWithin(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) { c.MaxConns = 20 })
	fill(t, p.Pool, 20)
	lab.Drop()
	p.requireGone(t, 20, detectWithin+time.Second+slack) // an interval is a second
}

func TestUnreachabilityEmptiesThePoolAndIsNamedOnDial(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	t.Cleanup(serve(lab.Server.Listen(t, port), func(c net.Conn) { io.Copy(io.Discard, c) }).stop)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) { c.MaxConns = 8 })
	fill(t, p.Pool, 8)
	inFlight := acquire(t, p.Pool)
	lab.Unreachable()

	began := time.Now()
	_, err := inFlight.Value().Write([]byte("anybody there?"))
	require.NoError(t, err)
	_, err = inFlight.Value().Read(make([]byte, 1))
	require.True(t, errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ECONNRESET), "the kernel has ended it at the guard's word, or the guard has: %v", err)
	require.Less(t, p.since(began), allowed(detectWithin+time.Second))
	require.Eventually(t, func() bool { return health.Classify(inFlight.Err()) == health.Path }, allowed(slack), time.Millisecond, "and says why, though maybe later than the kernel")
	inFlight.Fail(err)
	p.requireGone(t, 8, detectWithin+time.Second+slack)

	err = acquireInVain(t, p.Pool)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, syscall.EHOSTUNREACH, "the dial's error is part of the caller's")
}

func TestAProperRestartOfTheServerFailsNobody(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	s := serve(lab.Server.Listen(t, port), nil)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) { c.MaxConns = 50 })
	fill(t, p.Pool, 50)
	s.waitFor(t, 50)
	s.Close()
	s.closeConns(false)
	began := time.Now()
	require.Eventually(t, func() bool { return p.Stat().Idle == 0 }, 10*time.Second, time.Millisecond)
	took := p.since(began)
	s.stop()
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := p.Do(context.Background(), echo); err != nil {
				t.Errorf("an operation failed: %v", err)
			}
		})
	}
	wg.Wait()
	t.Logf("all 50 gone after %v", took)
	require.Less(t, took, allowed(100*time.Millisecond))
}

func TestABlackHoleHoldsNobodyBeyondTheirContextAndHeals(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) { c.MaxConns = 16 })
	lab.Drop()
	stop := watchSockets(lab, 4)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := p.Acquire(ctx)
			var ae *pool.AcquireError
			if !errors.As(err, &ae) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "4 opening") {
				t.Errorf("an error of little use: %v", err)
			}
			if d := p.since(began); d > allowed(200*time.Millisecond+slack) {
				t.Errorf("it took %v", d)
			}
		})
	}
	wg.Wait()
	// The dials go on; wait until some have failed and others are under way.
	require.Eventually(t, func() bool { return p.Stat().OpenFailed > 0 }, 10*time.Second, 10*time.Millisecond)
	lab.Heal()
	began := time.Now()
	acquire(t, p.Pool).Release()
	took := p.since(began)
	t.Logf("the first Acquire after the heal took %v", took)
	require.Less(t, took, allowed(2*time.Second+slack), "one backoff window, and one SYN")
	require.NoError(t, stop())
}

// TestTheEndOfALongOutageIsFoundAtOnce heals when the first dials' SYNs would
// be repeated only after 4 s.
func TestTheEndOfALongOutageIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	d, err := dial.New(dial.Config{DetectWithin: 10 * time.Second})
	require.NoError(t, err)
	dialer := lab.Client.Dialer(d.DialContext)
	p := newNetPool(t, pool.Config[net.Conn]{
		MaxConns: 16, DetectWithin: 10 * time.Second, Guard: labGuard(t, lab),
		Open: func(ctx context.Context) (net.Conn, error) {
			return dialer(ctx, "tcp", lab.Server.Addr(port))
		},
	})
	clock := netlab.NewClock(t)
	lab.Drop()
	var healed atomic.Pointer[time.Time]
	time.AfterFunc(7200*time.Millisecond, func() {
		healed.Store(new(time.Now()))
		lab.Heal()
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			// Without a deadline DetectWithin would be one, and the machine may be slow.
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			c, err := p.Acquire(ctx)
			if err != nil {
				t.Errorf("it failed: %v", err)
				return
			}
			took := clock.Since(*healed.Load())
			c.Release()
			if took > allowed(2*time.Second+slack) {
				t.Errorf("it took %v after the heal", took)
			}
		})
	}
	wg.Wait()
}

// TestHelperServer is the server of the next test, a process to be killed.
func TestHelperServer(t *testing.T) {
	netlab.HelperMain(t, func([]string) int {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		s := serve(ln, nil)
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		s.stop()
		return 0
	})
}

func startServer(t *testing.T, lab *netlab.Lab) *netlab.Process {
	s := lab.Server.Helper(t, "TestHelperServer")
	line, err := s.Stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return s
}

func TestAKilledServerUnderAThousandWaitersNeverMeetsMoreThanMaxConns(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	server := startServer(t, lab)
	p := newLabPool(t, lab, func(c *pool.Config[net.Conn]) { c.MaxConns = 10; c.MaxConcurrentOpens = 10 })
	stop := watchSockets(lab, 10)
	var over atomic.Bool
	var done, failed, served atomic.Int64
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			for !over.Load() {
				err := p.Do(context.Background(), echo)
				done.Add(1)
				if err != nil {
					failed.Add(1)
				} else {
					served.Add(1)
				}
			}
		})
	}
	for range 3 {
		require.Eventually(t, func() bool { return served.Load() > 2000 }, 30*time.Second, time.Millisecond)
		server.Kill()
		before := p.Stat().OpenFailed
		require.Eventually(t, func() bool { return p.Stat().OpenFailed > before+2 }, 30*time.Second, time.Millisecond)
		server = startServer(t, lab)
		served.Store(0)
	}
	require.Eventually(t, func() bool { return served.Load() > 2000 }, 30*time.Second, time.Millisecond)
	over.Store(true)
	wg.Wait() // nobody waits for ever
	require.NoError(t, stop())
	t.Logf("%d operations, %d failed; %d connections opened, %d opens failed", done.Load(), failed.Load(), p.Stat().Opened, p.Stat().OpenFailed)
	require.LessOrEqual(t, failed.Load(), int64(3*2*10), "only what was in flight at a kill, and what the dying process still accepted")
}

// TestHelperStopped is the client of the next test, a process to be stopped.
func TestHelperStopped(t *testing.T) {
	netlab.HelperMain(t, func(args []string) int {
		p, err := pool.New(pool.Config[net.Conn]{MaxConns: 50, Open: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", args[0])
		}})
		if err != nil {
			panic(err)
		}
		var held []pool.Conn[net.Conn]
		for range 50 {
			c, err := p.Acquire(context.Background())
			if err != nil {
				panic(err)
			}
			held = append(held, c)
		}
		for _, c := range held {
			c.Release()
		}
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n') // and while it waits here, it is stopped
		dead := 0
		for i := range held {
			if held[i], err = p.Acquire(context.Background()); err != nil {
				panic(err)
			}
		}
		for _, c := range held {
			c.Value().SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Value().Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				dead++
			}
		}
		fmt.Println("dead connections handed out:", dead, "opened:", p.Stat().Opened)
		return 0
	})
}

func TestAStoppedProcessHandsOutNoDeadConnectionAfterIt(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	s := serve(lab.Server.Listen(t, port), nil)
	t.Cleanup(s.stop)
	client := lab.Client.Helper(t, "TestHelperStopped", lab.Server.Addr(port))
	line, err := client.Stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	s.waitFor(t, 50)
	client.Stop()
	s.closeConns(false)
	_, err = io.WriteString(client.Stdin, "go\n") // acquires are the first thing it does
	require.NoError(t, err)
	time.Sleep(10 * time.Second) // not synchronisation: the fault is to be stopped for so long
	client.Continue()
	line, err = client.Stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "dead connections handed out: 0 opened: 100\n", line)
}

func TestAReadThatNobodyAnswersEndsAndTheConnectionIsDropped(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	t.Cleanup(serve(lab.Server.Listen(t, port), nil).stop)
	p := newLabPool(t, lab, nil)
	require.NoError(t, p.Do(t.Context(), echo))
	lab.Drop()
	began := time.Now()
	err := p.Do(t.Context(), echo)
	require.ErrorIs(t, err, syscall.ETIMEDOUT) // with ECONNRESET, if the guard has ended it
	require.Equal(t, health.Path, health.Classify(err))
	require.Less(t, p.since(began), allowed(detectWithin+time.Second))
	c := <-p.closed
	require.Contains(t, []pool.Reason{pool.ReasonSilent, pool.ReasonFailed}, c.Reason, "whoever was told first")
	require.Equal(t, health.Path, c.Class)
	lab.Heal()
	require.NoError(t, p.Do(t.Context(), echo))
}
