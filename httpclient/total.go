package httpclient

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/pool"
)

// total bounds the connections of all hosts together.
type total struct {
	client *Client
	slots  chan struct{} // nil: no bound
	wanted atomic.Bool   // a request waits for the next connection that comes free

	mu sync.Mutex // of conn.evicted
}

const (
	// roomEvery is how often who waits looks for an idle connection to close,
	// and spareEvery how often those look who open spares whether a request is
	// waiting by now.
	roomEvery  = 20 * time.Millisecond
	spareEvery = 250 * time.Millisecond

	// slotPatience is for how long opening may wait for a slot.
	slotPatience = time.Hour
)

func (t *total) init(limit int, c *Client) {
	t.client = c
	if limit > 0 {
		t.slots = make(chan struct{}, limit)
	}
}

// patience is what waiting for a slot may take.
func (t *total) patience() time.Duration {
	if t.slots == nil {
		return 0
	}
	return slotPatience
}

// acquire takes a slot for a connection to h. If there is none, and a request
// waits for it, an idle connection of another host is closed, or the next one that
// comes free.
func (t *total) acquire(ctx context.Context, h *host) error {
	if t.slots == nil {
		return nil
	}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case t.slots <- struct{}{}:
			return nil
		default:
		}
		every := spareEvery
		if h.pool.Stat().Waiting > 0 {
			every = roomEvery
			if !t.makeRoom(h) {
				t.wanted.Store(true) // one after the other
			}
		}
		again.Reset(every)
		select {
		case t.slots <- struct{}{}:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return unsent{fmt.Errorf("all %d connections that Config.MaxConns allows are in use: %w", cap(t.slots), context.Cause(ctx))}
		}
	}
}

func (t *total) release() {
	if t.slots != nil {
		<-t.slots
	}
}

// yields reports whether a connection that has come free is to be closed for
// others' sake.
func (t *total) yields() bool {
	return t.wanted.Load() && t.wanted.Swap(false)
}

// makeRoom has one idle connection closed, the one that was used the longest ago,
// and reports whether there was one.
func (t *total) makeRoom(h *host) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var oldest *conn
	for _, other := range t.client.all() {
		if other == h {
			continue
		}
		other.mu.Lock()
		for cn := range other.conns {
			if !cn.evicted && (oldest == nil || cn.lastUsed.Load() < oldest.lastUsed.Load()) && cn.idle() {
				oldest = cn
			}
		}
		other.mu.Unlock()
	}
	if oldest == nil {
		return false
	}
	// The pool may not have it yet.
	oldest.evicted = oldest.host.pool.RetireIf(pool.ReasonIdle, func(cn *conn) bool { return cn == oldest }) > 0
	return oldest.evicted
}
