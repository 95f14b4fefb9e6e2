package backstage

import (
	"context"
	"sync"
)

// Gate is what workers pass before each piece of work. It is closed at first. The
// zero value is ready for use; its methods may be called concurrently.
type Gate struct {
	mu      sync.Mutex
	open    int // for so many
	inside  int
	changed chan struct{} // closed at the next change; nil: nobody waits
}

// Open lets the workers 0 to n-1 pass from now on, and no others.
func (g *Gate) Open(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = n
	g.tell()
}

// Close lets nobody pass any more, and waits until all have left, or for the
// context's end.
func (g *Gate) Close(ctx context.Context) {
	g.Open(0)
	g.wait(ctx, func() bool { return g.inside == 0 })
}

// Pass waits until a worker may pass, who is to Leave then; false: the context has
// ended.
func (g *Gate) Pass(ctx context.Context, worker int) bool {
	return g.wait(ctx, func() bool {
		pass := worker < g.open && ctx.Err() == nil
		if pass {
			g.inside++
		}
		return pass
	})
}

// Leave is called by a worker whose piece of work is done.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.tell()
}

// tell wakes all that wait. The lock is held.
func (g *Gate) tell() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// wait waits until a condition holds, which it asks with the lock held, and reports
// whether that came before the context's end.
func (g *Gate) wait(ctx context.Context, holds func() bool) bool {
	for {
		g.mu.Lock()
		if holds() {
			g.mu.Unlock()
			return true
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
