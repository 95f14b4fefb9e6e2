package health

import (
	"io"
	"runtime"
	"slices"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// run is the Guard's goroutine, which begins with the events that there are.
func (g *Guard) run(events *epoll) {
	defer close(g.done)
	l := newLoop(g)
	interval := g.interval
	if events != nil {
		events.run(l.deliver)
		g.loseEvents()
		if interval < 0 {
			interval = defaultPollInterval
		}
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-g.quit:
			return
		case <-ticker.C:
			l.pollAll()
		}
	}
}

// loseEvents is for when there are no more events, of which Close is only one
// reason.
func (g *Guard) loseEvents() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.events.close()
		g.events = nil
	}
}

// loop is what the Guard's goroutine works with. Functions are made once.
type loop struct {
	guard   *Guard
	id      entryID
	find    func(*table) entryID
	watches []*Watch

	events sockopt.Events
	cause  error
	judge  func(fd uintptr)
	poll   func(fd uintptr)
	batch  []entryID
}

func newLoop(g *Guard) *loop {
	l := &loop{guard: g}
	l.find = func(*table) entryID { return l.id }
	l.judge = func(fd uintptr) { l.cause = judgeEvents(fd, l.events) }
	l.poll = func(fd uintptr) { l.events = pollEnd(fd) }
	return l
}

// deliver deals with an event of an entry.
func (l *loop) deliver(id entryID, e sockopt.Events) {
	l.id, l.events, l.cause = id, e, nil
	l.watches = l.guard.watches(l.find, l.watches[:0])
	defer clear(l.watches)
	if len(l.watches) == 0 {
		return // stopped or dropped meanwhile
	}
	if err := l.watches[0].raw.Control(l.judge); err != nil {
		l.cause = judgeClosed(e) // by its owner, who was faster
	}
	if l.cause == nil {
		return
	}
	for _, w := range l.watches {
		w.die(l.cause)
	}
	for _, w := range l.watches {
		w.notify()
	}
}

// judgeClosed is judgeEvents for what happened to a descriptor that is gone.
func judgeClosed(e sockopt.Events) error {
	switch {
	case e&sockopt.HangUp != 0:
		return errEnded
	case e&sockopt.ReadClosed != 0:
		return io.EOF
	}
	return nil
}

// pollBatch is how many connections are looked up in one go.
const pollBatch = 256

// pollAll looks at every connection once.
func (l *loop) pollAll() {
	for from := 0; from >= 0; {
		l.batch, from = l.guard.batch(from, l.batch[:0])
		for _, id := range l.batch {
			select {
			case <-l.guard.quit:
				return
			default:
				l.pollOne(id)
			}
		}
	}
}

func (l *loop) pollOne(id entryID) {
	l.id, l.events = id, 0
	l.watches = l.guard.watches(l.find, l.watches[:0])
	defer clear(l.watches)
	if len(l.watches) == 0 || l.watches[0].raw.Control(l.poll) != nil {
		return
	}
	if l.events&^sockopt.Readable != 0 {
		l.deliver(id, l.events)
	}
}

// batch appends some entries that may still die, beginning with an index, and
// returns the next index, or -1 at the end.
func (g *Guard) batch(from int, to []entryID) ([]entryID, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := from; i < len(g.table.entries); i++ {
		if len(to) == pollBatch {
			return to, i
		}
		if e := &g.table.entries[i]; e.used() && (armed(e.first) || slices.ContainsFunc(e.more(), armed)) {
			to = append(to, entryID{uint32(i), e.generation})
		}
	}
	return to, -1
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
