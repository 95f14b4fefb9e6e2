package grpcclient

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

const (
	maxDoubt  = 2 * time.Second      // bounds how long calls wait for the answers
	lookEvery = 5 * time.Millisecond // for them
	askable   = time.Second          // the guard asks nobody who was heard less than that ago
)

// asked is a connection from which an answer is awaited.
type asked struct {
	conn    *conn
	watches []*health.Watch
}

// doubt has all connections asked whether they live, since one is suspect: what
// has silenced that may have silenced them. Until they have answered, which takes
// a round trip, or are suspects, too, they get no calls. The lock is held.
func (p *Pool) doubt() {
	if p.closed.Load() {
		return
	}
	var conns []asked
	var sockets []net.Conn
	for _, c := range *p.conns.Load() {
		if !c.trusted() {
			continue
		}
		if c.prune(); len(c.sockets) == 0 {
			continue
		}
		c.doubted.Store(true)
		conns = append(conns, asked{c, slices.Collect(maps.Keys(c.sockets))})
		sockets = slices.AppendSeq(sockets, maps.Values(c.sockets))
	}
	if len(conns) == 0 {
		return
	}
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, maxDoubt)
		defer cancel()
		p.await(ctx, cancel, conns, sockets)
	})
}

// await ends the doubts about each connection when it has answered, and those that
// remain when all have, or are suspects.
func (p *Pool) await(ctx context.Context, cancel func(), conns []asked, sockets []net.Conn) {
	begun := time.Now()
	p.wg.Go(func() {
		defer cancel()
		_, _ = p.cfg.Config.Dialer.Guard().Check(ctx, sockets...) // told comes first, if they don't
	})
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(conns) > 0 {
		answered := func(a asked) bool { return a.heard(max(time.Since(begun), askable)) }
		select {
		case <-tick.C:
		case <-ctx.Done():
			answered = func(asked) bool { return true }
		}
		var left []asked
		var trusted []*conn
		for _, a := range conns {
			if answered(a) {
				trusted = append(trusted, a.conn)
			} else {
				left = append(left, a)
			}
		}
		conns = left
		p.trust(trusted)
	}
}

// trust ends the doubts about connections.
func (p *Pool) trust(conns []*conn) {
	if len(conns) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.doubted.Store(false)
	}
	p.wake()
}

// heard reports whether all its peers were heard so lately.
func (a asked) heard(within time.Duration) bool {
	return !slices.ContainsFunc(a.watches, func(w *health.Watch) bool {
		ago, ok := w.Heard()
		return !ok || ago >= within
	})
}
