package health

import (
	"io"
	"net"
	"runtime"
	"slices"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// loop is what the Guard's goroutine works with. Functions are made once, and
// slices are kept, so that it allocates nothing while all is well.
type loop struct {
	guard  *Guard
	kernel kernel
	clock  func() int64
	events *epoll // nil while polling

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
	l := &loop{guard: g, kernel: g.newKernel(), clock: g.now, events: g.events, byID: make(map[entryID]*trial), idle: -1}
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
