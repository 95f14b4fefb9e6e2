package pool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// newEndings is a server that says how its connections ended: with nil for a
// goodbye (a FIN, or TLS's alert), with an error for a reset.
func newEndings(t *testing.T) (*server, <-chan error) {
	ends := make(chan error, 100)
	return newServer(t, func(c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		ends <- err
	}), ends
}

// polite is a connection whose Close waits for an answer to its goodbye.
type polite struct{ net.Conn }

func (p polite) NetConn() net.Conn { return p.Conn }

func (p polite) Close() error {
	p.Conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, p.Conn)
	return p.Conn.Close()
}

func TestAConnectionIsClosedHardOnlyWhereNobodyHearsAGoodbye(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		hard bool
	}{
		"after a path error":         {syscall.EHOSTUNREACH, true},
		"after an error of this end": {context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, ends := newEndings(t)
			p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
			acquire(t, p).Fail(tc.err)
			require.Equal(t, tc.hard, <-ends != nil, "a reset")
		})
	}
}

func TestAPathErrorUnderTLSFreesTheSlotWithoutAGoodbye(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cert := testCert(t)
	ends := make(chan error, 100)
	s := serve(ln, func(c net.Conn) {
		_, err := io.Copy(io.Discard, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
		ends <- err
	})
	t.Cleanup(s.stop)
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	p := newNetPool(t, pool.Config[net.Conn]{MaxConns: 1, Open: func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}})
	acquire(t, p).Fail(syscall.EHOSTUNREACH)
	err = <-ends
	require.Error(t, err, "TLS said goodbye")
	require.NotErrorIs(t, err, io.ErrUnexpectedEOF, "a FIN")
}

func TestASlotIsFreeAtOnceAfterAPathError(t *testing.T) {
	s, ends := newEndings(t)
	var opens atomic.Int64
	p := newNetPool(t, pool.Config[net.Conn]{
		MaxConns: 1, CloseTimeout: time.Hour,
		Open: func(ctx context.Context) (net.Conn, error) {
			c, err := s.open(ctx)
			if err != nil || opens.Add(1) > 1 {
				return c, err
			}
			return polite{c}, nil
		},
	})
	acquire(t, p).Fail(syscall.ETIMEDOUT)
	require.Error(t, <-ends)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, p.Do(ctx, func(context.Context, net.Conn) error { return nil }))
}

func TestACloseThatTakesTooLongEndsWithAReset(t *testing.T) {
	ends := make(chan error, 100)
	s := newServer(t, func(c net.Conn) {
		io.Copy(io.Discard, c) // up to the goodbye, which isn't answered
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				ends <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	p := newNetPool(t, pool.Config[net.Conn]{MaxConns: 1, Open: func(ctx context.Context) (net.Conn, error) {
		c, err := s.open(ctx)
		return polite{c}, err
	}})
	acquire(t, p).Fail(io.EOF)
	require.Error(t, <-ends)
	require.Eventually(t, func() bool { return p.Stat().Total == 0 }, 10*time.Second, time.Millisecond)
}

func TestAnImpatientCloseResetsWhatIsHeld(t *testing.T) {
	s, ends := newEndings(t)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 2})
	fill(t, p, 2)
	held := acquire(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, p.Close(ctx), "1 in use (they were cut off)")
	a, b := <-ends, <-ends
	require.NotEqual(t, a == nil, b == nil, "a FIN for the idle one, a reset for the one in use: %v, %v", a, b)
	_, err := held.Value().Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAFINIsAnsweredByAFIN(t *testing.T) {
	ends := make(chan error, 100)
	s := newServer(t, func(c net.Conn) {
		c.(*net.TCPConn).CloseWrite()
		_, err := io.Copy(io.Discard, c)
		ends <- err
	})
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := p.Acquire(ctx); err == nil {
		c.Release()
	}
	require.NoError(t, <-ends)
}

func TestAllowUnreadDoesNotHideAnEnd(t *testing.T) {
	s := newServer(t, func(c net.Conn) {
		c.Read(make([]byte, 1))
		io.WriteString(c, "FATAL: terminating connection")
		c.Close()
	})
	guard, err := health.NewGuard(health.GuardConfig{ForcePolling: true, PollInterval: time.Hour})
	require.NoError(t, err)
	t.Cleanup(func() { guard.Close() })
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1, AllowUnread: true, Guard: guard})
	c := acquire(t, p)
	v, began := c.Value(), time.Now()
	_, err = v.Write([]byte("x"))
	require.NoError(t, err)
	c.Release()
	require.Eventually(t, func() bool { // until the kernel knows, also behind the bytes, and a check is due
		err := health.TCP(t.Context(), polite{v})
		known := errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) // the guard may have looked just then
		return known && time.Since(began) > 2*time.Millisecond
	}, 10*time.Second, time.Millisecond)
	c = acquire(t, p)
	defer c.Release()
	require.NotSame(t, v, c.Value())
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonDead))
}

func TestAPoolDoesNotCloseAGuardThatItShares(t *testing.T) {
	s := newServer(t, nil)
	guard, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { guard.Close() })
	cfg := pool.Config[net.Conn]{Open: s.open, Guard: guard, MaxConns: 4}
	first, err := pool.New(cfg)
	require.NoError(t, err)
	second := newNetPool(t, cfg)
	fill(t, first, 4)
	fill(t, second, 3)
	closePool(t, first)
	held := []pool.Conn[net.Conn]{acquire(t, second), acquire(t, second), acquire(t, second), acquire(t, second)}
	for _, c := range held {
		c.Release()
	}
	s.closeN(t, 8, true)
	require.Eventually(t, func() bool { return second.Stat().Total == 0 }, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 4, second.Stat().Closed(pool.ReasonDead))
}

func TestAPoolStopsWatchingWhatItHasGivenUp(t *testing.T) {
	s := newServer(t, nil)
	guard, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { guard.Close() })
	closed := make(chan pool.ConnClosed, 10)
	p := newNetPool(t, pool.Config[net.Conn]{
		Open: s.open, Guard: guard, MaxConns: 2, MaxConcurrentOpens: 1,
		Trace: &pool.Trace{ConnClosed: func(c pool.ConnClosed) { closed <- c }},
	})
	hijacked, ok := acquire(t, p).Hijack()
	require.True(t, ok)
	defer hijacked.Close()
	require.Equal(t, pool.ReasonHijacked, (<-closed).Reason)
	c := acquire(t, p)
	dead := c.Value()
	s.closeN(t, 2, false) // in the order of their births
	require.Eventually(t, func() bool { return c.Err() != nil }, 10*time.Second, time.Millisecond)
	require.Error(t, guard.Cause(dead))
	c.Release()
	require.Equal(t, pool.ReasonDead, (<-closed).Reason)
	require.NoError(t, guard.Cause(dead), "closed, and watched still")
	require.Eventually(t, func() bool { return health.TCP(t.Context(), hijacked) != nil }, 5*time.Second, time.Millisecond)
	require.NoError(t, guard.Cause(hijacked), "hijacked, and watched still")
}
