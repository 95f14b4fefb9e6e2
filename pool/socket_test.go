package pool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// server is a TCP server on loopback whose connections a test can reach.
type server struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	ended bool
	done  sync.WaitGroup
}

// newServer serves each connection with handle; nil echoes.
func newServer(t testing.TB, handle func(net.Conn)) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := serve(ln, handle)
	t.Cleanup(s.stop)
	return s
}

func serve(ln net.Listener, handle func(net.Conn)) *server {
	s := &server{Listener: ln}
	if handle == nil {
		handle = func(c net.Conn) { io.Copy(c, c) }
	}
	s.done.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.ended {
				c.Close() // nobody else would
			}
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.done.Go(func() { handle(c) })
		}
	})
	return s
}

// closeN waits until n connections were accepted and closes them, politely or
// with a reset.
func (s *server) closeN(t testing.TB, n int, reset bool) {
	s.waitFor(t, n)
	s.closeConns(reset)
}

func (s *server) waitFor(t testing.TB, n int) {
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) >= n
	}, 30*time.Second, time.Millisecond)
}

func (s *server) closeConns(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if reset {
			c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	s.conns = nil
}

func (s *server) stop() {
	s.Close()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.closeConns(false)
	s.done.Wait()
}

func (s *server) open(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.Addr().String())
}

func newNetPool(t testing.TB, cfg pool.Config[net.Conn]) *pool.Pool[net.Conn] {
	t.Helper()
	p, err := pool.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { closePool(t, p) })
	return p
}

// awaitEnd waits until the peer has closed c, as a handshake would, or ctx ends.
func awaitEnd(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	c.Read(make([]byte, 1))
}

// echo sends a line and expects it back.
func echo(_ context.Context, c net.Conn) error {
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
	if err == nil && line != "hello\n" {
		err = errors.New("somebody else's reply: " + line)
	}
	return err
}

func TestDeadConnectionsLeaveThePoolByThemselves(t *testing.T) {
	for name, reset := range map[string]bool{"FIN": false, "RST": true} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan pool.ConnClosed, 50)
			s := newServer(t, nil)
			p := newNetPool(t, pool.Config[net.Conn]{
				Open: s.open, MaxConns: 50,
				Trace: &pool.Trace{ConnClosed: func(c pool.ConnClosed) { closed <- c }},
			})
			fill(t, p, 50)
			s.closeN(t, 50, reset)
			for range 50 {
				c := <-closed
				require.Equal(t, pool.ReasonDead, c.Reason)
				require.Equal(t, health.Conn, c.Class, "%v", c.Err)
				require.NoError(t, c.CloseErr)
			}
			require.Zero(t, p.Stat().Idle)
			require.NoError(t, p.Do(t.Context(), echo))
		})
	}
}

func TestAConnectionThatDiesInUseIsNotKept(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	c := acquire(t, p)
	require.NoError(t, c.Err())
	s.closeN(t, 1, false)
	require.Eventually(t, func() bool { return errors.Is(c.Err(), io.EOF) }, 5*time.Second, time.Millisecond)
	c.Release()
	require.Eventually(t, func() bool { return p.Stat().Idle == 0 }, 5*time.Second, time.Millisecond, "Err may know before the pool is told")
	require.NoError(t, p.Do(t.Context(), echo))
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonDead))
}

func TestABusyProcessHandsOutNoDeadConnection(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 50})
	held := make([]pool.Conn[net.Conn], 50)
	for i := range held {
		held[i] = acquire(t, p)
	}
	for _, c := range held {
		c.Release()
	}
	s.waitFor(t, 50)
	var stop atomic.Bool
	var spinning sync.WaitGroup
	for range 64 {
		spinning.Go(func() {
			for !stop.Load() {
			}
		})
	}
	time.Sleep(2 * time.Millisecond) // not synchronisation: the last use must be more than a millisecond ago
	s.mu.Lock()
	for i := 0; i < 50; i += 2 {
		s.conns[i].(*net.TCPConn).SetLinger(i % 4)
		s.conns[i].Close() // every other one of them with a reset
	}
	s.mu.Unlock()
	for i := 0; i < 50; i += 2 { // a busy kernel delivers in its own time
		arrived(t, held[i].Value())
	}
	held = held[:25]
	for i := range held {
		held[i] = acquire(t, p)
	}
	stop.Store(true)
	spinning.Wait()
	for _, c := range held {
		c.Value().SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := c.Value().Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a dead connection was handed out")
		c.Fail(err)
	}
	require.Eventually(t, func() bool { return p.Stat().Closed(pool.ReasonDead) == 25 }, 5*time.Second, time.Millisecond, "one of them the guard has found")
	require.EqualValues(t, 50, p.Stat().Opened, "and none was given up that lived")
}

// arrived waits until c's kernel knows that the peer has ended it, and lets nobody
// else run meanwhile.
func arrived(t *testing.T, c net.Conn) {
	for began := time.Now(); ; {
		if s, err := dial.Inspect(c); err != nil || s.State != "ESTABLISHED" {
			return // or this system doesn't tell
		}
		require.Less(t, time.Since(began), 10*time.Second)
	}
}

func TestADeadlineInTheMiddleOfAReplyNeverReachesTheNextCaller(t *testing.T) {
	release := make(chan struct{})
	s := newServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "slow\n" {
				io.WriteString(c, "sl")
				<-release
				io.WriteString(c, "ow\n")
				continue
			}
			io.WriteString(c, line)
		}
	})
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	slow := func(_ context.Context, c net.Conn) error {
		io.WriteString(c, "slow\n")
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}
	require.ErrorIs(t, doBriefly(t, p, slow), os.ErrDeadlineExceeded)
	close(release)
	for range 10 {
		require.NoError(t, p.Do(t.Context(), echo))
	}

	ctx, cancel := context.WithCancel(t.Context())
	swallowed := p.Do(ctx, func(ctx context.Context, c net.Conn) error {
		io.WriteString(c, "hello\n")
		cancel()
		_, err := c.Read(make([]byte, 100))
		for err == nil {
			_, err = c.Read(make([]byte, 100))
		}
		return nil // an error kept to itself
	})
	require.NoError(t, swallowed)
	require.NoError(t, p.Do(t.Context(), echo))
	require.EqualValues(t, 2, p.Stat().Closed(pool.ReasonFailed))
}

func TestDoInterruptsIOWhenTheContextIsCancelled(t *testing.T) {
	s := newServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open})
	ctx, cancel := context.WithCancel(t.Context())
	reading := make(chan struct{})
	go func() { <-reading; cancel() }()
	err := p.Do(ctx, func(_ context.Context, c net.Conn) error {
		close(reading)
		_, err := c.Read(make([]byte, 1))
		return err
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Zero(t, p.Stat().Idle)
}

func TestDoInterruptsIOOnTheConnectionBelow(t *testing.T) {
	type client struct{ c net.Conn }
	s := newServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	p, err := pool.New(pool.Config[client]{
		Open: func(ctx context.Context) (client, error) {
			c, err := s.open(ctx)
			return client{c}, err
		},
		NetConn: func(c client) net.Conn { return c.c },
	})
	require.NoError(t, err)
	defer closePool(t, p)
	err = doBriefly(t, p, func(_ context.Context, c client) error {
		_, err := c.c.Read(make([]byte, 1))
		return err
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestDoLeavesNoDeadlineBehind(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	patience := 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	for p.Do(ctx, echo) != nil || p.Stat().Idle == 0 { // too slow for it
		cancel()
		patience *= 2
		require.Less(t, patience, time.Minute)
		ctx, cancel = context.WithTimeout(t.Context(), patience)
	}
	defer cancel()
	opened := p.Stat().Opened
	<-ctx.Done()
	require.NoError(t, p.Do(t.Context(), echo))
	require.Equal(t, opened, p.Stat().Opened)
}

func TestDoGivesTheConnectionUpWhenTheFunctionPanics(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open})
	require.PanicsWithValue(t, "boom", func() {
		p.Do(t.Context(), func(context.Context, net.Conn) error { panic("boom") })
	})
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonFailed))
	require.Zero(t, p.Stat().InUse)
}

func TestALeftoverReadDeadlineDoesNotMakeAConnectionLookDead(t *testing.T) {
	s := newServer(t, nil)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	c := acquire(t, p)
	v := c.Value()
	v.SetReadDeadline(time.Unix(1, 0))
	c.Release()
	time.Sleep(2 * time.Millisecond) // the peek is due after one
	c = acquire(t, p)
	require.Same(t, v, c.Value())
	v.SetReadDeadline(time.Time{})
	require.NoError(t, echo(t.Context(), v))
	c.Release()
}

func TestUnreadBytesDiscardAConnectionUnlessAllowed(t *testing.T) {
	for name, allow := range map[string]bool{"discarded": false, "allowed": true} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				for {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
					io.WriteString(c, "hello\nand more\n")
				}
			})
			p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1, AllowUnread: allow})
			c := acquire(t, p)
			v := c.Value()
			io.WriteString(v, "\n")
			_, err := io.ReadFull(v, make([]byte, 6))
			require.NoError(t, err)
			c.Fail(errors.New("an application's error")) // asks for unread bytes at once
			kept := p.Stat().Idle == 1
			require.Equal(t, allow, kept)

			c = acquire(t, p)
			c.Release()
			require.Equal(t, allow, c.Value() == v)
		})
	}
}

func TestATLSConnectionIsWatchedAndClosedInTime(t *testing.T) {
	cert := testCert(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	s := serve(ln, nil)
	t.Cleanup(s.stop)
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	p := newNetPool(t, pool.Config[net.Conn]{
		MaxConns: 3,
		Open: func(ctx context.Context) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", ln.Addr().String())
		},
	})
	fill(t, p, 3)
	for range 20 {
		require.NoError(t, p.Do(t.Context(), echo))
		time.Sleep(2 * time.Millisecond) // a peek each time
	}
	require.EqualValues(t, 3, p.Stat().Opened)
	s.closeN(t, 3, false)
	require.Eventually(t, func() bool { return p.Stat().Total == 0 }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, 3, p.Stat().Closed(pool.ReasonDead))
}
