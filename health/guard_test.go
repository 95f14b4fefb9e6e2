//go:build !plan9

package health

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newGuard(t testing.TB, cfg GuardConfig) *Guard {
	t.Helper()
	g, err := NewGuard(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.Close()) })
	return g
}

// eachGuard runs f with a Guard that has what the system offers and with one
// that polls.
func eachGuard(t *testing.T, f func(t *testing.T, g *Guard)) {
	t.Run("events", func(t *testing.T) { f(t, newGuard(t, GuardConfig{PollInterval: time.Millisecond})) })
	t.Run("polling", func(t *testing.T) {
		f(t, newGuard(t, GuardConfig{PollInterval: time.Millisecond, ForcePolling: true}))
	})
}

// used returns how many entries are in use.
func (g *Guard) used() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.table.entries) - len(g.table.free); n != len(g.table.byTCP)+len(g.table.byUnix) {
		panic("the table contradicts itself")
	}
	return len(g.table.byTCP) + len(g.table.byUnix)
}

// watch watches c and returns a channel that receives each callback. It keeps the
// Watch until the test ends, which the Guard doesn't.
func watch(t testing.TB, g *Guard, c net.Conn) (*Watch, <-chan *Watch) {
	t.Helper()
	died := make(chan *Watch, 10)
	w, err := g.Watch(c, nil, func(w *Watch) { died <- w })
	require.NoError(t, err)
	t.Cleanup(func() { runtime.KeepAlive(w) })
	return w, died
}

func receive[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(within):
		t.Fatal("not within ", within, ": ", what)
	}
	return v
}

// quiet gives a Guard the time to notice something else, and requires that it
// doesn't say anything about w.
func quiet(t testing.TB, g *Guard, w *Watch, died <-chan *Watch) {
	t.Helper()
	for range 2 {
		c, peer := pair(t)
		other, otherDied := watch(t, g, c)
		require.NoError(t, peer.Close())
		receive(t, otherDied, "the other death")
		other.Stop()
	}
	assert.Empty(t, died)
	assert.False(t, w.Dead())
	assert.NoError(t, w.Cause())
}

// isCause requires the exact cause on Linux, and elsewhere that it is one of
// the connection's alone.
func isCause(t testing.TB, want, got error) {
	t.Helper()
	assert.Equal(t, Conn, Classify(got), "%v", got)
	if runtime.GOOS == "linux" {
		assert.ErrorIs(t, got, want)
	}
}

func TestGuardConfigIsValidated(t *testing.T) {
	for field, cfg := range map[string]GuardConfig{
		"PollInterval": {PollInterval: time.Microsecond},
		"ForcePolling": {PollInterval: -1, ForcePolling: true},
	} {
		_, err := NewGuard(cfg)
		require.ErrorContains(t, err, "GuardConfig."+field)
	}
	for _, cfg := range []GuardConfig{{}, {PollInterval: -1}, {PollInterval: time.Millisecond, ForcePolling: true}} {
		g, err := NewGuard(cfg)
		require.NoError(t, err)
		require.NoError(t, g.Close())
	}
}

func TestDeathsAreReported(t *testing.T) {
	for name, test := range map[string]struct {
		kill  func(c, peer *net.TCPConn)
		cause error
	}{
		"FIN":       {func(c, peer *net.TCPConn) { peer.Close() }, io.EOF},
		"RST":       {func(c, peer *net.TCPConn) { reset(t, peer) }, syscall.ECONNRESET},
		"half-open": {func(c, peer *net.TCPConn) { peer.CloseWrite() }, io.EOF},
		"FIN behind data": {func(c, peer *net.TCPConn) {
			peer.Write([]byte("bye"))
			peer.Close()
		}, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			eachGuard(t, func(t *testing.T, g *Guard) {
				c, peer := pair(t)
				w, died := watch(t, g, c)
				require.NoError(t, g.Cause(c))
				test.kill(c, peer)
				require.Same(t, w, receive(t, died, "the callback"))
				assert.True(t, w.Dead())
				isCause(t, test.cause, w.Cause())
				isCause(t, test.cause, w.Sniff())
				isCause(t, test.cause, g.Cause(c))
				assert.False(t, w.Stop(), "too late")
				assert.False(t, w.Stop(), "twice")
				assert.Empty(t, died, "once at most")
				isCause(t, test.cause, w.Cause())
				assert.NoError(t, g.Cause(c), "forgotten")
				assert.Zero(t, g.used())
			})
		})
	}
}

func TestAPendingErrnoIsLeftToItsOwner(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		_, died := watch(t, g, c)
		reset(t, peer)
		receive(t, died, "the callback")
		_, err := c.Read(make([]byte, 1))
		require.Equal(t, Conn, Classify(err))
		isCause(t, syscall.ECONNRESET, err)
	})
}

func TestDeathUnderABlockedReaderIsReported(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		w, died := watch(t, g, c)
		ended := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, c)
			ended <- err
		}()
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		reset(t, peer)
		isCause(t, syscall.ECONNRESET, receive(t, ended, "the reader's error"))
		receive(t, died, "the callback")
		assert.Equal(t, Conn, Classify(w.Cause()))
	})
}

func TestTheDeadAreReportedWhenTheyAreRegistered(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		require.NoError(t, peer.Close())
		_, died := watch(t, g, c)
		receive(t, died, "the callback")
		_, again := watch(t, g, c)
		receive(t, again, "the callback of the second Watch")
		assert.Empty(t, died)
	})
}

func TestTrafficAndALocalCloseAreNoDeath(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		w, died := watch(t, g, c)
		for range 100 {
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
			_, err = c.Write([]byte("y"))
			require.NoError(t, err)
		}
		quiet(t, g, w, died)
		require.NoError(t, c.Close())
		quiet(t, g, w, died)
		assert.ErrorIs(t, w.Sniff(), net.ErrClosed)
		assert.True(t, w.Stop())
		assert.Zero(t, g.used())
	})
}

func TestUnixSocketsAreWatched(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := unixPair(t)
		w, died := watch(t, g, c)
		require.NoError(t, w.Sniff())
		require.NoError(t, peer.Close())
		receive(t, died, "the callback")
		assert.Equal(t, Conn, Classify(g.Cause(c)), "%v", g.Cause(c))
		runtime.KeepAlive(w)
	})
}

func TestWhatCannotBeWatchedIsRefused(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	_, err := g.Watch(p, nil, nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NoError(t, g.Cause(p))

	if runtime.GOOS != "windows" {
		d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "d"), Net: "unixgram"})
		require.NoError(t, err)
		defer d.Close()
		_, err = g.Watch(d, nil, nil)
		require.ErrorIs(t, err, errors.ErrUnsupported, "a datagram socket has no end")
	}

	c, _ := pair(t)
	require.NoError(t, c.Close())
	_, err = g.Watch(c, nil, nil)
	require.ErrorIs(t, err, net.ErrClosed)
	assert.Zero(t, g.used())

	require.NoError(t, g.Close())
	c, _ = pair(t)
	_, err = g.Watch(c, nil, nil)
	require.ErrorIs(t, err, ErrGuardClosed)
}

func TestTwoWatchesOfOneConnection(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		first, firstDied := watch(t, g, c)
		_, secondDied := watch(t, g, tls.Client(c, &tls.Config{}))
		_, err := g.Watch(c, nil, nil)
		require.NoError(t, err)
		assert.Equal(t, 1, g.used())
		assert.True(t, first.Stop())
		require.NoError(t, peer.Close())
		second := receive(t, secondDied, "the callback of the one that is left")
		assert.Empty(t, firstDied)
		second.Stop()
		isCause(t, io.EOF, g.Cause(c)) // by the one without a callback
		assert.NoError(t, c.Close())
		isCause(t, io.EOF, g.Cause(c)) // also now
		runtime.KeepAlive(c)
	})
}

func TestStopPreventsTheCallbackOrSaysThatItIsTooLate(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		var wg sync.WaitGroup
		for range 300 {
			c, peer := pair(t)
			var called atomic.Int32
			w, err := g.Watch(c, nil, func(*Watch) { called.Add(1) })
			require.NoError(t, err)
			wg.Go(func() { peer.Close() })
			wg.Go(func() {
				want := int32(1)
				if w.Stop() {
					want = 0
				} else {
					eventually(t, "the callback that had begun", func() bool { return called.Load() == 1 })
				}
				c.Close()
				runtime.Gosched()
				assert.Equal(t, want, called.Load())
			})
			if t.Failed() {
				break
			}
		}
		wg.Wait()
		assert.Zero(t, g.used())
	})
}

func TestCallbackMayUseWatchAndGuard(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		next, _ := pair(t)
		done := make(chan error)
		w, err := g.Watch(c, nil, func(w *Watch) {
			assert.False(t, w.Stop())
			assert.Error(t, w.Sniff())
			assert.NoError(t, c.Close())
			w, err := g.Watch(next, nil, func(*Watch) {})
			w.Stop()
			done <- err
		})
		require.NoError(t, err)
		require.NoError(t, peer.Close())
		require.NoError(t, receive(t, done, "the callback"))
		runtime.KeepAlive(w)
	})
}

func TestCloseWaitsForTheCallbackAndMayBeRepeated(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		begun, release := make(chan bool), make(chan bool)
		w, err := g.Watch(c, nil, func(*Watch) { begun <- true; <-release })
		require.NoError(t, err)
		require.NoError(t, peer.Close())
		receive(t, begun, "the callback")
		var closed atomic.Int32
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { g.Close(); closed.Add(1) })
		}
		eventually(t, "Close begins", func() bool {
			_, err := g.Watch(c, nil, nil)
			return errors.Is(err, ErrGuardClosed)
		})
		assert.Zero(t, closed.Load())
		close(release)
		wg.Wait()
		require.NoError(t, g.Close())
		isCause(t, io.EOF, w.Cause())

		// What needs no Guard still works.
		assert.False(t, w.Stop())
		isCause(t, io.EOF, w.Sniff())
	})
}

func TestAnUnusedGuardOwnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		g, err := NewGuard(GuardConfig{})
		require.NoError(t, err)
		p, q := net.Pipe()
		defer p.Close()
		defer q.Close()
		_, err = g.Watch(p, nil, nil)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.Equal(t, before, runtime.NumGoroutine())
		// No Close: the bubble would complain about a goroutine.
	})
}
