//go:build !plan9

package health

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// asleep returns a Guard whose goroutine does nothing, so that a test can be it.
func asleep(t *testing.T) *Guard {
	return newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true})
}

func TestAnEventForAFormerConnectionIsNobodysDeath(t *testing.T) {
	g := asleep(t)
	c, _ := pair(t)
	former, _ := watch(t, g, c)
	former.Stop()
	c, _ = pair(t)
	w, died := watch(t, g, c)
	require.Equal(t, former.id.index, w.id.index, "the entry is used again")
	newLoop(g).deliver(former.id, sockopt.ReadClosed)
	assert.False(t, w.Dead())
	assert.Empty(t, died)
	newLoop(g).deliver(w.id, sockopt.ReadClosed)
	assert.True(t, w.Dead())
}

func TestTheFirstCauseStays(t *testing.T) {
	g := asleep(t)
	c, peer := pair(t)
	w, _ := watch(t, g, c)
	require.NoError(t, peer.Close())
	eventually(t, "the FIN", func() bool { return sniffed(w) != nil })
	w.look = func(fd uintptr) {
		w.sniff(fd)
		w.die(syscall.ETIMEDOUT) // by the Guard, while Sniff is at it
	}
	require.Equal(t, syscall.ETIMEDOUT, w.Sniff())
	w.die(io.EOF)
	assert.Equal(t, syscall.ETIMEDOUT, w.Cause())
}

// sniffed is what Sniff would find, without the Watch noticing.
func sniffed(w *Watch) (err error) {
	_ = w.raw.Control(func(fd uintptr) { err, _ = sniff(fd, w.layered) })
	return err
}

func TestAllWatchesKnowBeforeAnyIsCalled(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		var watches [3]*Watch
		called := make(chan error, len(watches))
		ready := make(chan struct{})
		for i := range watches {
			var err error
			watches[i], err = g.Watch(c, nil, func(*Watch) {
				<-ready
				err := io.ErrNoProgress
				if watches[0].Dead() && watches[1].Cause() != nil && watches[2].Sniff() != nil {
					err = nil
				}
				called <- err
			})
			require.NoError(t, err)
		}
		close(ready)
		require.NoError(t, peer.Close())
		for range watches {
			require.NoError(t, receive(t, called, "a callback"))
		}
		runtime.KeepAlive(&watches)
	})
}

// TestWhatHappenedBeforeTheOwnersCloseIsReported: the event was queued, and then
// its descriptor went.
func TestWhatHappenedBeforeTheOwnersCloseIsReported(t *testing.T) {
	for events, cause := range map[sockopt.Events]error{
		sockopt.ReadClosed: io.EOF,
		sockopt.ReadClosed | sockopt.HangUp | sockopt.Failed:   errEnded,
		sockopt.ReadClosed | sockopt.HangUp | sockopt.Readable: errEnded,
		sockopt.Failed:   nil,
		sockopt.Readable: nil,
	} {
		g := asleep(t)
		c, _ := pair(t)
		w, died := watch(t, g, c)
		require.NoError(t, c.Close())
		newLoop(g).deliver(w.id, events)
		assert.Equal(t, cause, w.Cause())
		assert.Equal(t, cause != nil, w.Dead())
		assert.Len(t, died, map[bool]int{true: 1}[cause != nil])
	}
}

func TestPollingReachesTheDeadBehindManyLiving(t *testing.T) {
	g := newGuard(t, GuardConfig{PollInterval: time.Millisecond, ForcePolling: true})
	var watches []*Watch
	var peers []*net.TCPConn
	called := make(chan int, 2*batchSize+10)
	for i := range cap(called) {
		c, peer := pair(t)
		w, err := g.Watch(c, nil, func(*Watch) { called <- i })
		require.NoError(t, err)
		watches, peers = append(watches, w), append(peers, peer)
	}
	last := len(peers) - 1
	require.NoError(t, peers[last].Close())
	require.Equal(t, last, receive(t, called, "the last one's callback"))
	for _, peer := range peers[:last] {
		require.NoError(t, peer.Close())
	}
	for range last {
		receive(t, called, "a callback")
	}
	runtime.KeepAlive(watches)
}

func TestACollectedWatchTakesNoOtherWithIt(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		entries := func() int {
			g.mu.Lock()
			defer g.mu.Unlock()
			return 1 + len(g.table.entries[0].more())
		}
		watches := make([]*Watch, 4)
		called := make(chan int, 10)
		for i := range watches {
			var err error
			watches[i], err = g.Watch(c, nil, func(*Watch) { called <- i })
			require.NoError(t, err)
		}
		watches[0], watches[2] = nil, nil // the first, and one of the others
		eventually(t, "two are forgotten", func() bool { runtime.GC(); return entries() == 2 })
		require.NoError(t, peer.Close())
		assert.ElementsMatch(t, []int{1, 3}, []int{receive(t, called, "a callback"), receive(t, called, "the other")})
		runtime.KeepAlive(watches)
	})
}

func TestAGuardThatIsDeniedEventsPollsIfItMay(t *testing.T) {
	denied := func() (*epoll, error) { return nil, errors.ErrUnsupported }
	c, peer := pair(t)
	g := newGuard(t, GuardConfig{PollInterval: -1})
	g.newEvents = denied
	_, err := g.Watch(c, nil, nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Zero(t, g.used())

	g = newGuard(t, GuardConfig{PollInterval: time.Millisecond})
	g.newEvents = func() (*epoll, error) { return nil, syscall.EMFILE }
	_, err = g.Watch(c, nil, nil)
	require.ErrorIs(t, err, syscall.EMFILE, "which may be over the next time")

	g.newEvents = denied
	w, died := watch(t, g, c)
	require.NoError(t, peer.Close())
	receive(t, died, "the callback")
	runtime.KeepAlive(w)
}

// nosy is a connection that asks its Guard about itself.
type nosy struct {
	net.Conn
	g *Guard
}

func (c nosy) NetConn() net.Conn { return c.Conn }
func (c nosy) RemoteAddr() net.Addr {
	_ = c.g.Cause(c.Conn)
	return c.Conn.RemoteAddr()
}

func TestTheLockIsNotHeldWhileAConnectionIsCalled(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	c, _ := pair(t)
	require.NoError(t, c.Close())
	done := make(chan error, 1)
	go func() {
		_, err := g.Watch(nosy{c, g}, nil, nil)
		done <- err
	}()
	require.ErrorIs(t, receive(t, done, "Watch returns"), net.ErrClosed)
}
