package pool

import (
	"context"
	"net"

	"github.com/holdfast-go/holdfast/health"
)

// fresh reports whether e's peer was heard lately, or nobody can tell.
func (p *Pool[T]) fresh(e *entry[T], now int64) bool {
	return e.watch == nil || now-max(e.idleSince, e.provenAt) < p.freshFor || p.heard(e)
}

// heard asks the kernel when e's peer was last heard.
func (p *Pool[T]) heard(e *entry[T]) bool {
	ago, ok := e.watch.Heard()
	return !ok || int64(ago) < p.freshFor
}

// ask asks the peer's kernel whether it still knows e, which the caller owns,
// and those of the idle connections that are next.
func (p *Pool[T]) ask(ctx context.Context, e *entry[T], now int64) verdict {
	p.askTheRest(e, now)
	states, err := p.guard.Check(ctx, e.conn)
	if e.has(flagDead) {
		return e.deadVerdict()
	}
	if err != nil || len(states) == 0 {
		return verdict{ok: true, slow: true} // it can't be asked
	}
	if states[0] == health.Dead {
		return e.deadVerdict()
	}
	p.compare(e)
	return verdict{ok: !e.has(flagSuspect), doubtful: e.has(flagSuspect), slow: true}
}

// compare makes sure that the pool knows what the guard knows.
func (p *Pool[T]) compare(e *entry[T]) {
	s := e.watch.State()
	if s == health.Dead || (s == health.Suspect) != e.has(flagSuspect) {
		p.told(e, e.watch)
	}
}

// askTheRest lets all idle connections be asked of which nobody knows whether
// they are fresh, at the same time as the one that a caller is about to use. If
// that is dead, the others may be, too: then many cost no more time than one.
// One such round at a time is enough, who comes meanwhile asks for their own
// connection, and the guard asks no peer twice.
func (p *Pool[T]) askTheRest(own *entry[T], now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking && own.round == p.round {
		return // it is counted there
	}
	p.stat.Asked++
	if p.asking || p.closed {
		return
	}
	var rest []*entry[T]
	for e := p.idle.first; e != nil; e = e.next {
		if e.watch != nil && now-max(e.idleSince, e.provenAt) >= p.freshFor {
			e.round = p.round + 1
			rest = append(rest, e)
		}
	}
	if rest != nil {
		p.round++
		p.asking = true
		p.work.Add(1)
		go p.askAll(rest)
	}
}

func (p *Pool[T]) askAll(es []*entry[T]) {
	defer p.work.Done()
	conns := make([]net.Conn, 0, len(es))
	stale := es[:0]
	for _, e := range es {
		if !p.heard(e) {
			conns, stale = append(conns, e.conn), append(stale, e)
		}
	}
	_, _ = p.guard.Check(p.ctx, conns...) // what it finds out is known to the watches
	for _, e := range stale {
		p.compare(e)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
	p.stat.Asked += int64(len(conns))
}
