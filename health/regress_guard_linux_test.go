package health

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// TestAGuardWhoseGoroutineHasEndedAnswers: at once, and forgets the question.
func TestAGuardWhoseGoroutineHasEndedAnswers(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]State{"closed": Unwatched, "severed": Dead, "reset": Dead} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, GuardConfig{})
			c, peer := pair(t)
			w, err := g.Watch(c, simPolicy(t, PolicyConfig{DetectWithin: 2 * time.Second}), nil)
			require.NoError(t, err)
			switch how {
			case "closed":
				require.NoError(t, c.Close())
			case "severed":
				require.NoError(t, g.Sever(c, errors.New("severed")))
			case "reset":
				reset(t, peer)
			}
			eventually(t, "the goroutine ends", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return !g.started
			})
			for range 100 {
				w.Doubt(net.ErrClosed)
				states, err := g.Check(timeout(t, within), c)
				require.NoError(t, err)
				require.Equal(t, []State{want}, states)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			assert.True(t, g.inbox.empty())
		})
	}
}

// TestSeverTellsFromTheGuardsGoroutine: who calls Sever isn't called back.
func TestSeverTellsFromTheGuardsGoroutine(t *testing.T) {
	t.Parallel()
	eachGuard(t, func(t *testing.T, g *Guard) {
		for range 50 {
			var deaths atomic.Int32
			p := simPolicy(t, PolicyConfig{StateChanged: func(c StateChange) {
				if c.To == Dead {
					deaths.Add(1)
				}
			}})
			c, _ := pair(t)
			stacks := make(chan string, 10)
			w, err := g.Watch(c, p, func(*Watch) {
				stack := make([]byte, 1<<14)
				stacks <- string(stack[:runtime.Stack(stack, false)])
			})
			require.NoError(t, err)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { _ = g.Sever(c, context.Canceled) })
			}
			wg.Wait()
			assert.Contains(t, receive(t, stacks, "the callback"), "(*loop).run(")
			eventually(t, "StateChanged", func() bool { return deaths.Load() > 0 })
			_, err = g.Check(timeout(t, within), c) // a turn later
			require.NoError(t, err)
			assert.EqualValues(t, 1, deaths.Load())
			assert.Empty(t, stacks)
			assert.Equal(t, context.Canceled, w.Cause())
			w.Stop()
		}
	})
}

// TestStateChangedIsToldOfDeathsWithoutAPolicyInForce: a Unix socket can have
// none.
func TestStateChangedIsToldOfDeathsWithoutAPolicyInForce(t *testing.T) {
	t.Parallel()
	eachGuard(t, func(t *testing.T, g *Guard) {
		changes := make(chan StateChange, 10)
		p := simPolicy(t, PolicyConfig{StateChanged: func(c StateChange) { changes <- c }})
		c, peer := unixPair(t)
		w, err := g.Watch(c, p, nil)
		require.NoError(t, err)
		require.Equal(t, Unwatched, w.State())
		require.NoError(t, peer.Close())
		change := receive(t, changes, "the change")
		assert.Equal(t, Dead, change.To)
		assert.Equal(t, Unwatched, change.From)
		assert.Equal(t, c, change.Conn)
		assert.False(t, change.Severed)
		assert.Error(t, change.Cause)
		assert.Empty(t, changes)
	})
}

// TestAnOldConnectionIsNoNewOne: only a handshake of just now is evidence that
// the address answers.
func TestAnOldConnectionIsNoNewOne(t *testing.T) {
	t.Parallel()
	g := newGuard(t, GuardConfig{})
	p := simPolicy(t, PolicyConfig{})
	isNew := func(c *net.TCPConn) bool {
		w := &Watch{guard: g, policy: p}
		key, raw, _, err := target(c)
		require.NoError(t, err)
		w.raw = raw
		return g.footing(w, key, p).isNew
	}
	var c *net.TCPConn
	eventually(t, "a new one", func() bool { // unless this machine stands still just then
		c, _ = pair(t)
		return isNew(c)
	})
	talked, peer := pair(t)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	eventually(t, "the peer was heard", func() bool { return !isNew(talked) })
	eventually(t, "its handshake is old", func() bool { return !isNew(c) })
}

// setting is all of a connection's options that a Guard touches.
type setting struct {
	timers sockopt.Timers
	rtoMax time.Duration
}

func settings(t testing.TB, c net.Conn) (s setting) {
	t.Helper()
	options(t, c, func(fd uintptr) error {
		s.rtoMax, _ = sockopt.RTOMax(fd) // since Linux 6.15
		return sockopt.ReadTimers(fd, &s.timers)
	})
	return s
}

// TestAnAbandonedSuspectHasItsOptionsBack: whether its Watch was dropped, or
// stopped in its callback, or another one remains for events.
func TestAnAbandonedSuspectHasItsOptionsBack(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stopped in told", "dropped", "dropped beside events only"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, false, PolicyConfig{})
			c, err := s.Client.Dial(timeout(t, within), nil, s.addr)
			require.NoError(t, err)
			defer c.Close()
			echo(t, c)
			own := settings(t, c)
			if strings.Contains(how, "events") {
				_, err = s.guard.Watch(c, nil, nil)
				require.NoError(t, err)
			}
			suspect := make(chan bool, 10)
			w, err := s.guard.Watch(c, s.policy, func(w *Watch) {
				if how == "stopped in told" {
					w.Stop()
				}
				suspect <- true
			})
			require.NoError(t, err)
			s.Drop()
			_, err = c.Write([]byte("y"))
			require.NoError(t, err)
			receive(t, suspect, "the suspicion")
			runtime.KeepAlive(w)
			eventually(t, "its options are back", func() bool {
				runtime.GC()
				return settings(t, c) == own
			})
			s.Heal()
			echo(t, c)
			assert.Equal(t, own, settings(t, c))
		})
	}
}

// TestACanaryThatHangsIsNotTheLast: a Dial may forget its context.
func TestACanaryThatHangsIsNotTheLast(t *testing.T) {
	t.Parallel()
	s := newSite(t, false, PolicyConfig{DetectWithin: 10 * time.Second, FreshFor: time.Second})
	dials, release := make(chan bool, 100), make(chan bool)
	s.guard.dial = func(context.Context, string, string) (net.Conn, error) {
		dials <- true
		<-release
		return nil, net.ErrClosed
	}
	defer close(release)
	s.dial(t)
	s.Drop()
	receive(t, dials, "the first")
	receive(t, dials, "the second")
}
