package health

import (
	"context"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// loop is what the Guard's goroutine works with. Functions are made once, and
// slices are kept, so that it allocates nothing while all is well.
type loop struct {
	guard  *Guard
	kernel kernel
	clock  func() int64
	limit  func(context.Context, time.Duration) (context.Context, context.CancelFunc) // context.WithTimeout
	events *epoll                                                                     // nil while polling

	// For deliver.
	watches []*Watch
	happens sockopt.Events
	cause   error
	judge   func(fd uintptr)
	poll    func(fd uintptr)

	// For sweeps.
	batch   []item
	from    int    // where the next batch begins
	batchAt int64  // when it is due
	open    int    // connections of this sweep that weren't closed
	idle    int    // sweeps in a row that found none
	entered uint64 // Guard.entered when the sweep began
	info    sockopt.Info

	// For trials.
	byID     map[entryID]*trial
	due      trialHeap
	ended    []*trial
	hasty    []*group
	free     []*trial
	ids      []entryID
	window   int64 // since when probes are counted
	probes   int   // sent in it
	canaries int   // under way

	inbox inbox // of this turn
}

// inbox is what others want the loop to do.
type inbox struct {
	questions []question
	doubts    []doubt
	newcomers []newcomer
	canaries  []canary
	stopped   []*Watch
	severed   []entryID
}

func (in *inbox) empty() bool {
	return len(in.questions)+len(in.doubts)+len(in.newcomers)+len(in.canaries)+len(in.stopped)+len(in.severed) == 0
}

func (in *inbox) clear() {
	clear(in.questions)
	clear(in.canaries)
	clear(in.stopped)
	in.stopped, in.severed = in.stopped[:0], in.severed[:0]
	in.questions, in.doubts = in.questions[:0], in.doubts[:0]
	in.newcomers, in.canaries = in.newcomers[:0], in.canaries[:0]
}

// newcomer is a new connection, of which siblings are silent perhaps.
type newcomer struct {
	id           entryID
	began, heard int64
}

// post puts something into the inbox, unless the Guard is closed.
func (g *Guard) post(put func(*inbox)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !g.started {
		return
	}
	put(&g.inbox)
	g.kickLocked()
}

// kickLocked has the loop take a turn now.
func (g *Guard) kickLocked() {
	if g.events != nil {
		g.events.wake()
		return
	}
	select {
	case g.kicked <- struct{}{}:
	default:
	}
}

func newLoop(g *Guard) *loop {
	l := &loop{guard: g, kernel: g.newKernel(), clock: g.now, limit: context.WithTimeout, events: g.events, byID: make(map[entryID]*trial), idle: -1}
	if g.events == nil {
		l.batchAt = l.clock() + int64(g.pollEvery())
	}
	l.judge = func(fd uintptr) { l.cause = judgeEvents(fd, l.happens) }
	l.poll = func(fd uintptr) { l.happens = pollEnd(fd) }
	return l
}

// never is later than everything.
const never = int64(1<<63 - 1)

// run is the Guard's goroutine.
func (l *loop) run() {
	defer l.putBack()
	for {
		if l.events != nil && !l.events.drain(l.deliver) {
			l.loseEvents()
		}
		next, ok := l.turn()
		if !ok {
			return
		}
		l.wait(next)
	}
}

// turn does what is due, and returns when something will be next, or false at
// the end.
func (l *loop) turn() (next int64, ok bool) {
	g := l.guard
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return 0, false
	}
	g.inbox, l.inbox = l.inbox, g.inbox
	if g.retune {
		g.retune = false
		l.batchAt = 0
	}
	g.mu.Unlock()
	l.empty(&l.inbox)
	l.sweep()
	l.hastenAll(l.clock())
	l.tryAll()
	l.hastenAll(l.clock())
	if l.idle > 1 && len(l.byID) == 0 && l.leave() {
		return 0, false
	}
	g.wary.Store(len(l.byID) > 0)
	next = l.batchAt
	if len(l.due) > 0 {
		next = min(next, l.due[0].due)
	}
	return next, true
}

// empty does what the inbox says.
func (l *loop) empty(in *inbox) {
	for _, id := range in.severed {
		l.severed(id)
	}
	for _, w := range in.stopped {
		l.acquit(w)
	}
	for _, n := range in.newcomers {
		l.newcomer(n)
	}
	for _, c := range in.canaries {
		l.canaryBack(c, l.clock())
	}
	for _, d := range in.doubts {
		l.doubt(d)
	}
	for _, q := range in.questions {
		l.question(q)
	}
	in.clear()
}

// wait waits for events, a kick, or until next.
func (l *loop) wait(next int64) {
	g := l.guard
	if l.events != nil {
		g.mu.Lock()
		if g.closed || g.retune || !g.inbox.empty() {
			g.mu.Unlock()
			return
		}
		l.events.until(g.born, next)
		g.mu.Unlock()
		if !l.events.wait(l.deliver) {
			l.loseEvents()
		}
		return
	}
	if next == never {
		<-g.kicked
		return
	}
	timer := time.NewTimer(time.Duration(next - l.clock()))
	defer timer.Stop()
	select {
	case <-g.kicked:
	case <-timer.C:
	}
}

// leave ends the loop if nothing is watched any more that isn't closed.
func (l *loop) leave() bool {
	g := l.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	used := len(g.table.entries) - len(g.table.free)
	if g.closed || l.from != 0 || l.open > 0 || l.canaries > 0 || !g.inbox.empty() || g.entered != l.entered || l.events != nil && used > g.table.policed {
		return false
	}
	if g.events != nil {
		g.events.close()
		g.events = nil
	}
	g.started = false
	return true
}

// loseEvents is for when there are no more events, of which Close is only one
// reason.
func (l *loop) loseEvents() {
	g := l.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	l.events, l.batchAt = nil, 0
	if !g.closed {
		g.events.close()
		g.events = nil
	}
}

// anyEnd is the event of a connection of which TCP_INFO has told the end.
const anyEnd = sockopt.HangUp | sockopt.ReadClosed | sockopt.Failed

// deliver deals with an event of an entry.
func (l *loop) deliver(id entryID, e sockopt.Events) {
	l.happens, l.cause = e, nil
	l.watches = l.guard.watchesOf(id, l.watches[:0])
	defer clear(l.watches)
	if len(l.watches) == 0 {
		return // stopped or dropped meanwhile
	}
	if err := l.watches[0].raw.Control(l.judge); err != nil {
		l.cause = judgeClosed(e) // by its owner, who was faster
	}
	if l.cause != nil {
		l.bury(id, l.watches, l.cause)
	} else if e&sockopt.Failed != 0 {
		l.rumour(id) // of a router, told to a socket with IP_RECVERR
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
