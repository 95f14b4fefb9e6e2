package pool_test

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is what a pool should be, in a few lines: idle connections as a
// stack, those set aside in the order in which they fell silent, those held, and
// who waits, in order.
type model struct {
	idle    []int
	aside   []int
	silent  []int // suspects, held ones too, the longest silent first
	held    map[int]pool.Conn[*conn]
	handles map[int]pool.Conn[*conn] // the last of each connection
	waiting []*call
	epoch   int
	epochs  map[int]int // of each connection
	dead    map[int]bool
	yielded int // suspects so far that had to make room
	stale   []pool.Conn[*conn]
	next    int
	max     int
	down    bool
}

type call struct {
	cancel context.CancelFunc
	done   chan struct{}
	want   int // the connection it should get, 0 for a new one
	c      pool.Conn[*conn]
	err    error
}

// settle is what should happen by itself: idle connections and free slots go
// to whoever waits. Yielded is how many suspects had to make room.
func (m *model) settle(t *testing.T, yielded int) (served []*call) {
	for _, id := range m.silent {
		if yielded > 0 && take(&m.aside, id) {
			require.True(t, m.handles[id].Value().closed.Load(), "connection %d was silent the longest", id)
			yielded--
		}
	}
	require.Zero(t, yielded, "closed as suspects that were none")
	m.silent = slices.DeleteFunc(m.silent, func(id int) bool {
		_, held := m.held[id]
		return !held && !slices.Contains(m.aside, id)
	})
	for len(m.waiting) > 0 {
		switch {
		case len(m.idle) > 0:
			m.waiting[0].want = m.idle[len(m.idle)-1]
			m.idle = m.idle[:len(m.idle)-1]
		case !m.down && len(m.held)+len(m.aside)+len(served) < m.max:
			m.waiting[0].want = 0
		default:
			return served
		}
		served = append(served, m.waiting[0])
		m.waiting = m.waiting[1:]
	}
	return served
}

// live draws a connection that is held, idle or set aside.
func (m *model) live(r *rapid.T, name string) int {
	ids := append(slices.Clone(m.idle), m.aside...)
	for id := range m.next + 1 {
		if _, ok := m.held[id]; ok {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		r.Skip("nothing is open")
	}
	return rapid.SampledFrom(ids).Draw(r, name)
}

// take removes an id, if it is there.
func take(ids *[]int, id int) bool {
	i := slices.Index(*ids, id)
	if i < 0 {
		return false
	}
	*ids = slices.Delete(*ids, i, i+1)
	return true
}

// TestThePoolBehavesLikeItsModel drives a pool with random operations in
// virtual time and compares it with the model after each.
func TestThePoolBehavesLikeItsModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) { runModel(t, r) })
	})
}

func runModel(t *testing.T, r *rapid.T) {
	f := &factory{}
	m := &model{held: map[int]pool.Conn[*conn]{}, handles: map[int]pool.Conn[*conn]{}, epochs: map[int]int{}, dead: map[int]bool{}, max: rapid.IntRange(1, 4).Draw(r, "max")}
	p := newPool(t, f, func(c *pool.Config[*conn]) {
		c.MaxConns = m.max
		c.MaxConnIdleTime, c.MaxConnLifetime = -1, -1
		c.DetectWithin = 1000 * time.Hour
	})
	defer func() {
		for _, w := range m.waiting {
			w.cancel()
			<-w.done
		}
		for _, c := range m.held {
			c.Release()
		}
	}()
	one := func(name string) (int, pool.Conn[*conn]) {
		ids := make([]int, 0, len(m.held))
		for id := range m.next + 1 {
			if _, ok := m.held[id]; ok {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			r.Skip("nothing is held")
		}
		id := rapid.SampledFrom(ids).Draw(r, name)
		return id, m.held[id]
	}
	drop := func(id int) {
		m.stale = append(m.stale, m.held[id])
		delete(m.held, id)
	}
	put := func(id int) { // back, where it belongs
		switch {
		case m.epochs[id] != m.epoch || m.dead[id]:
		case slices.Contains(m.silent, id):
			m.aside = append(m.aside, id)
		default:
			m.idle = append(m.idle, id)
		}
	}
	r.Repeat(map[string]func(*rapid.T){
		"acquire": func(*rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			w := &call{cancel: cancel, done: make(chan struct{})}
			go func() {
				defer close(w.done)
				w.c, w.err = p.Acquire(ctx)
			}()
			m.waiting = append(m.waiting, w)
			synctest.Wait() // its place in the queue is taken
		},
		"cancel": func(*rapid.T) {
			if len(m.waiting) == 0 {
				r.Skip("nobody waits")
			}
			i := rapid.IntRange(0, len(m.waiting)-1).Draw(r, "waiter")
			w := m.waiting[i]
			w.cancel()
			<-w.done
			require.ErrorIs(t, w.err, context.Canceled)
			m.waiting = append(m.waiting[:i:i], m.waiting[i+1:]...)
		},
		"release": func(*rapid.T) {
			id, c := one("released")
			c.Release()
			drop(id)
			put(id)
		},
		"fail": func(*rapid.T) {
			id, c := one("failed")
			c.Fail(syscall.ECONNRESET)
			drop(id)
		},
		"application error": func(*rapid.T) {
			id, c := one("erring")
			c.Fail(errors.New("no such key"))
			drop(id)
			put(id)
		},
		"doubt": func(*rapid.T) {
			id := m.live(r, "doubted")
			if take(&m.idle, id) {
				m.aside = append(m.aside, id)
			}
			if !slices.Contains(m.silent, id) {
				m.silent = append(m.silent, id)
			}
			pool.Tell(m.handles[id], health.Suspect)
		},
		"clear": func(*rapid.T) {
			id := m.live(r, "cleared")
			take(&m.silent, id)
			if take(&m.aside, id) {
				m.idle = append(m.idle, id)
			}
			pool.Tell(m.handles[id], health.Alive)
		},
		"die": func(*rapid.T) {
			id := m.live(r, "dying")
			_ = take(&m.idle, id) || take(&m.aside, id)
			m.dead[id] = true
			pool.Tell(m.handles[id], health.Dead)
		},
		"hijack": func(*rapid.T) {
			id, c := one("hijacked")
			v, ok := c.Hijack()
			require.True(t, ok)
			require.NoError(t, f.close(v))
			drop(id)
		},
		"stale": func(*rapid.T) {
			for _, c := range m.stale {
				c.Release()
				c.Fail(syscall.EPIPE)
			}
		},
		"reset":       func(*rapid.T) { p.Reset(); m.epoch++; m.idle, m.aside = nil, nil },
		"server down": func(*rapid.T) { f.set(errRefused); m.down = true },
		"server up":   func(*rapid.T) { f.set(nil); m.down = false },
		"": func(*rapid.T) {
			time.Sleep(5 * time.Second) // any backoff is over
			synctest.Wait()
			s := p.Stat()
			yielded := int(s.Closed(pool.ReasonSilent)) - m.yielded
			m.yielded += yielded
			require.LessOrEqual(t, yielded, len(m.waiting), "suspects closed without need")
			for _, w := range m.settle(t, yielded) {
				<-w.done
				require.NoError(t, w.err)
				id := w.c.Value().id
				if w.want == 0 { // dialed side by side, they arrive in any order
					require.NotContains(t, m.epochs, id)
					m.epochs[id] = m.epoch
					m.next = max(m.next, id)
				} else {
					require.Equal(t, w.want, id)
				}
				m.held[id], m.handles[id] = w.c, w.c
			}
			require.Equal(t, len(m.idle), s.Idle, "idle")
			require.Equal(t, len(m.aside), s.Suspect, "suspect")
			if len(m.waiting) > 0 && s.OpenFailures == 0 {
				require.Zero(t, s.Suspect, "a caller waits for the slot of a suspect")
			}
			require.Equal(t, len(m.held), s.InUse, "in use")
			require.Equal(t, len(m.waiting), s.Waiting, "waiting")
			require.LessOrEqual(t, s.Total, m.max)
			for id, c := range m.held {
				require.False(t, c.Value().closed.Load(), "connection %d was closed under its holder", id)
				require.Equal(t, m.epochs[id] != m.epoch || m.dead[id] || slices.Contains(m.silent, id), c.Err() != nil)
			}
		},
	})
}
