package grpcclient

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// wish is what a call wants of its connection.
type wish struct {
	stream   bool // it lasts, so that it may wait for a connection with fewer
	waited   bool // it has, in vain
	suspects bool // they are good enough
}

// acquire chooses a connection and counts a call on it, which may be a stream.
func (p *Pool) acquire(ctx context.Context, stream bool) (*conn, error) {
	var verdict <-chan time.Time
	w := wish{stream: stream}
	for {
		if c := p.take(ctx, &w); c != nil {
			return c, nil
		}
		if p.closed.Load() {
			return nil, ErrClosed
		}
		changed := p.relieve(w, verdict == nil)
		if changed == nil {
			continue
		}
		if verdict == nil {
			timer := time.NewTimer(p.cfg.Config.Dialer.Config().DetectWithin + time.Second)
			defer timer.Stop()
			verdict = timer.C
		}
		select {
		case <-changed:
		case <-verdict:
			w.suspects = true // nobody has passed it: the guard was closed
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// take is acquire without the wait for a connection that is fit. If it returns nil
// after a wait for another, the wish says so.
func (p *Pool) take(ctx context.Context, w *wish) *conn {
	choice, ok := p.pick(*w)
	if !ok {
		return nil
	}
	c := choice.conn
	switch {
	case choice.state == connectivity.Ready:
		if choice.idle != nil {
			choice.idle.cc.Connect()
		}
	case w.stream && !w.waited && choice.ready && !opens(ctx, c.cc) && ctx.Err() == nil:
		w.waited = true
		c.slow.Store(true) // nor is another stream to wait for it
		p.release(c)
		return nil
	}
	p.calls.Add(1)
	return c
}

// maxPicks bounds how often a stream chooses again as others keep coming first.
const maxPicks = 100

// pick chooses a connection and counts a call on it, unless there is none that is
// fit. A stream, which lasts, is not added to others that have chosen the same
// connection meanwhile.
func (p *Pool) pick(w wish) (_ choice, ok bool) {
	for picks := 1; ; picks++ {
		choice := p.choose(w)
		c := choice.conn
		switch {
		case c == nil:
			return choice, false
		case !w.stream || picks == maxPicks:
			return choice, p.hold(c)
		case c.calls.CompareAndSwap(choice.calls, choice.calls+1):
			return choice, p.held(c)
		}
	}
}

// opens waits for a connection to be there, but not long, nor for most of the time
// that the context leaves.
func opens(ctx context.Context, cc *grpc.ClientConn) bool {
	limit := maxOpening
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/4)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return connected(ctx, cc, false)
}

// relieve has all connections replaced if none is fit for calls, and returns what
// is closed when one may be. Nil: one is. First says that the call hasn't waited
// yet.
func (p *Pool) relieve(w wish, first bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.choose(w).conn; c != nil || p.closed.Load() {
		return nil
	}
	if first {
		p.stat.Waited++
	}
	for _, c := range *p.conns.Load() {
		if c.suspect.Load() {
			p.replace(c)
		}
	}
	return p.changed
}

// choice is where the next call goes.
type choice struct {
	conn  *conn // nil: all are suspect, and that isn't good enough
	calls int64 // that it had
	state connectivity.State
	ready bool  // there is one that is ready
	idle  *conn // if it is busy: one that should be opened meanwhile; or nil
}

// choose finds the connection for the next call. Streams, which last, are spread
// over all connections; other calls go to those that are there, mostly.
func (p *Pool) choose(w wish) (best choice) {
	conns := *p.conns.Load()
	if len(conns) == 0 {
		return best
	}
	begin := int(rand.Uint32N(uint32(len(conns))))
	var least int64
	for i := range conns { // mostly the least loaded is ready
		c := at(conns, begin+i)
		if n := c.calls.Load(); (best.conn == nil || n < least) && (w.suspects || c.trusted()) {
			best.conn, least = c, n
		}
	}
	if best.conn == nil {
		return best
	}
	best.calls = least
	if best.state = best.conn.cc.GetState(); best.state == connectivity.Ready {
		return best
	}
	best = choice{}
	for i := range conns {
		c := at(conns, begin+i)
		if !w.suspects && !c.trusted() {
			continue
		}
		state := c.cc.GetState()
		switch state {
		case connectivity.Ready:
			best.ready = true
		case connectivity.Idle:
			best.idle = c
		}
		calls := c.calls.Load()
		if load := c.load(calls, state, w); best.conn == nil || load < least {
			best.conn, best.calls, best.state, least = c, calls, state, load
		}
	}
	if least == 0 {
		best.idle = nil
	}
	return best
}

// at is conns in a ring.
func at(conns []*conn, i int) *conn {
	if i >= len(conns) {
		i -= len(conns)
	}
	return conns[i]
}

const (
	// maxOpening is how long a stream waits for its share of connections, while
	// there is another.
	maxOpening = time.Second

	// unreadyCalls is how many calls more a connection gets than one that isn't
	// there yet: less than what servers that limit streams allow on one, which is
	// mostly 100 or more.
	unreadyCalls = 64

	failedCalls = 1 << 32 // and than one that couldn't be opened
)

// load is how unwelcome another call is, in half calls.
func (c *conn) load(calls int64, s connectivity.State, w wish) int64 {
	load := 2 * calls
	switch {
	case s == connectivity.Ready:
		return load
	case s != connectivity.Idle && s != connectivity.Connecting:
		return load + 2*failedCalls
	case w.stream && (w.waited || c.slow.Load()):
		return load + failedCalls // a failed one is worse
	case w.stream:
		return load + 1
	}
	return load + 2*unreadyCalls
}
