package httpclient

import (
	"context"
	"fmt"
	"time"
)

// total bounds the connections of all hosts together.
type total struct {
	client *Client
	slots  chan struct{} // nil: no bound
}

func (t *total) init(limit int, c *Client) {
	t.client = c
	if limit > 0 {
		t.slots = make(chan struct{}, limit)
	}
}

// acquire takes a slot for a connection to h. If there is none, an idle connection
// of the host that was used the longest ago is closed.
func (t *total) acquire(ctx context.Context, h *host) error {
	if t.slots == nil {
		return nil
	}
	select {
	case t.slots <- struct{}{}:
		return nil
	default:
	}
	again := time.NewTicker(roomEvery)
	defer again.Stop()
	for {
		t.makeRoom(h)
		select {
		case t.slots <- struct{}{}:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return unsent{fmt.Errorf("all %d connections that Config.MaxConns allows are in use: %w", cap(t.slots), context.Cause(ctx))}
		}
	}
}

// roomEvery is how often who waits looks for an idle connection to close.
const roomEvery = 20 * time.Millisecond

func (t *total) release() {
	if t.slots != nil {
		<-t.slots
	}
}

// makeRoom has one idle connection closed.
func (t *total) makeRoom(h *host) {
	var oldest *conn
	for _, other := range t.client.all() {
		if other == h {
			continue
		}
		other.mu.Lock()
		for cn := range other.conns {
			if (oldest == nil || cn.lastUsed.Load() < oldest.lastUsed.Load()) && cn.idle() {
				oldest = cn
			}
		}
		other.mu.Unlock()
	}
	if oldest != nil {
		oldest.host.pool.ResetIf(func(cn *conn) bool { return cn == oldest })
	}
}
