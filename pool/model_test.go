package pool_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is what a pool should be, in a few lines: idle connections as a
// stack, those held, and who waits, in order.
type model struct {
	idle    []int
	held    map[int]pool.Conn[*conn]
	waiting []*call
	epoch   int
	epochs  map[int]int // of each connection
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
// to whoever waits.
func (m *model) settle() (served []*call) {
	for len(m.waiting) > 0 {
		switch {
		case len(m.idle) > 0:
			m.waiting[0].want = m.idle[len(m.idle)-1]
			m.idle = m.idle[:len(m.idle)-1]
		case !m.down && len(m.held)+len(served) < m.max:
			m.waiting[0].want = 0
		default:
			return served
		}
		served = append(served, m.waiting[0])
		m.waiting = m.waiting[1:]
	}
	return served
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
	m := &model{held: map[int]pool.Conn[*conn]{}, epochs: map[int]int{}, max: rapid.IntRange(1, 4).Draw(r, "max")}
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
			if m.epochs[id] == m.epoch {
				m.idle = append(m.idle, id)
			}
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
			if m.epochs[id] == m.epoch {
				m.idle = append(m.idle, id)
			}
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
		"reset":       func(*rapid.T) { p.Reset(); m.epoch++; m.idle = nil },
		"server down": func(*rapid.T) { f.set(errRefused); m.down = true },
		"server up":   func(*rapid.T) { f.set(nil); m.down = false },
		"": func(*rapid.T) {
			time.Sleep(5 * time.Second) // any backoff is over
			synctest.Wait()
			for _, w := range m.settle() {
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
				m.held[id] = w.c
			}
			s := p.Stat()
			require.Equal(t, len(m.idle), s.Idle, "idle")
			require.Equal(t, len(m.held), s.InUse, "in use")
			require.Equal(t, len(m.waiting), s.Waiting, "waiting")
			require.LessOrEqual(t, s.Total, m.max)
			for id, c := range m.held {
				require.False(t, c.Value().closed.Load(), "connection %d was closed under its holder", id)
				require.Equal(t, m.epochs[id] != m.epoch, c.Err() != nil)
			}
		},
	})
}
