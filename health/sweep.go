package health

import (
	"net"
	"runtime"
	"slices"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// item is a connection as a sweep needs it.
type item struct {
	id     entryID
	tcp    weak.Pointer[net.TCPConn]
	watch  *Watch
	policy *Policy
	group  *group
}

// batchSize is how many connections are looked at in one go, between two looks
// at events.
const batchSize = 256

// sweep looks at the next connections, if it is time.
func (l *loop) sweep() {
	now := l.clock()
	if now < l.batchAt {
		return
	}
	if l.from == 0 {
		l.guard.mu.Lock()
		entered := l.guard.entered
		l.guard.mu.Unlock()
		if l.open == 0 && entered == l.entered {
			l.idle++
		} else {
			l.idle = 0
		}
		l.open, l.entered = 0, entered
	}
	every, n := l.gather()
	for i := range l.batch {
		it := &l.batch[i]
		if l.events == nil && !l.pollOne(it) {
			continue
		}
		l.look(it)
	}
	clear(l.batch)
	if int64(every) == never {
		l.batchAt = never
		return
	}
	batches := int64(n+batchSize-1) / batchSize
	l.batchAt = now + int64(every)/max(batches, 1)
}

const (
	maxSweep      = 2 * time.Second
	minSweep      = 200 * time.Millisecond
	sweepCost     = 150 * time.Microsecond // per connection: 1 % of a processor at 1.5 µs
	looksInDetect = 20
	looksInFresh  = 5
)

// gather fills the batch, and returns in what time all of so many connections
// are to be looked at once.
func (l *loop) gather() (every time.Duration, n int) {
	g := l.guard
	l.batch = l.batch[:0]
	g.mu.Lock()
	defer g.mu.Unlock()
	polling := l.events == nil
	n = g.table.policed
	if polling {
		n = len(g.table.entries)
	}
	if n == 0 {
		g.detect, g.fresh = 0, 0
	}
	if n == 0 && !polling && len(g.table.entries) > len(g.table.free) {
		return time.Duration(never), 0 // events only
	}
	often := g.detect / looksInDetect
	if g.fresh > 0 {
		often = min(often, g.fresh/looksInFresh)
	}
	every = min(max(time.Duration(n)*sweepCost, often, minSweep), max(maxSweep, g.detect/4))
	if polling && (g.table.policed == 0 || g.pollEvery() < every) {
		every = g.pollEvery()
	}
	for l.from < len(g.table.entries) && len(l.batch) < batchSize {
		i := l.from
		l.from++
		e := &g.table.entries[i]
		if !e.used() || e.policy == nil && !polling {
			continue
		}
		w := e.first.Value()
		if w == nil { // collected, and soon to be cleared away
			l.open++
			continue
		}
		l.batch = append(l.batch, item{entryID{uint32(i), e.generation}, e.tcp, w, e.policy, e.group})
	}
	if l.from >= len(g.table.entries) {
		l.from = 0
	}
	return every, n
}

// pollEvery is how often to look where there are no events. The Guard is locked.
func (g *Guard) pollEvery() time.Duration {
	if g.interval < 0 { // there were events, and then there were none
		return defaultPollInterval
	}
	return g.interval
}

// pollOne looks for the end of a connection, and reports whether it lives.
func (l *loop) pollOne(it *item) bool {
	l.happens = 0
	if it.watch.raw.Control(l.poll) != nil {
		return false
	}
	l.open++
	if l.happens&^sockopt.Readable != 0 && l.anyArmed(it.id) {
		l.deliver(it.id, l.happens)
	}
	return !it.watch.Dead()
}

// anyArmed reports whether a death would be news.
func (l *loop) anyArmed(id entryID) bool {
	l.guard.mu.Lock()
	defer l.guard.mu.Unlock()
	e := l.guard.table.get(id)
	return e != nil && (armed(e.first) || slices.ContainsFunc(e.more(), armed))
}

func armed(p weak.Pointer[Watch]) bool {
	w := p.Value()
	return w != nil && w.armed()
}

// pollEnd asks for the end of a connection that somebody may be using.
func pollEnd(fd uintptr) sockopt.Events {
	e, err := sockopt.Poll(fd)
	if err != nil {
		return 0
	}
	// BSD's poll doesn't tell a FIN from bytes. Windows' does, and peeking there
	// could wait for what another reader takes away.
	if e == sockopt.Readable && !pollTellsEnd && runtime.GOOS != "windows" {
		if n, err := sockopt.Peek(fd); n == 0 && err == nil {
			e |= sockopt.ReadClosed
		}
	}
	return e
}
