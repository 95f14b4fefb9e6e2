package health

import (
	"context"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// pending is a call of Check.
type pending struct {
	states []State
	left   int
	done   chan struct{}
}

// question asks about one connection on behalf of a call of Check.
type question struct {
	id      entryID
	at      int // in pending.states
	pending *pending
}

// Check asks the peers' kernels, all at once, and returns the connections'
// states in their order:
//
//   - Alive: the peer has answered, or was heard within the last second, or data
//     is in flight and its answer isn't due yet.
//   - Suspect: it hasn't answered in time, which is at least 200 ms. It is asked
//     again until it answers or is given up.
//   - SlowReader, Dead.
//   - Unwatched: it isn't watched under a policy, or was closed.
//
// On a short path an answer takes some milliseconds, since keep-alive waits for
// the kernel's next tick. A connection that is being asked already isn't asked
// twice.
//
// The error is ErrGuardClosed or the context's.
func (g *Guard) Check(ctx context.Context, conns ...net.Conn) ([]State, error) {
	p := &pending{states: make([]State, len(conns)), done: make(chan struct{})}
	keys := make([]connKey, len(conns))
	for i, c := range conns {
		keys[i], _, _, _ = target(c)
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, ErrGuardClosed
	}
	for i, key := range keys {
		switch id := g.table.find(key); {
		case id == entryID{}:
		case !g.started: // nothing lives that is watched
			for _, w := range g.table.watches(id, nil) {
				if w.Dead() {
					p.states[i] = Dead
				}
			}
		default:
			g.inbox.questions = append(g.inbox.questions, question{id, i, p})
			p.left++
		}
	}
	asked := p.left > 0
	if asked {
		g.kickLocked()
	}
	g.mu.Unlock()
	if !asked {
		return p.states, nil
	}
	select {
	case <-p.done:
		return p.states, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.ctx.Done():
		return nil, ErrGuardClosed
	}
}

func (p *pending) answer(i int, s State) {
	p.states[i] = s
	if p.left--; p.left == 0 {
		close(p.done)
	}
}

// answer answers those who wait for a trial's result.
func (l *loop) answer(t *trial, s State) {
	for _, q := range t.questions {
		q.pending.answer(q.at, s)
	}
	clear(t.questions)
	t.questions = t.questions[:0]
}

// question answers a question, or opens a trial that will.
func (l *loop) question(q question) {
	it, ok := l.guard.itemOf(q.id)
	switch {
	case !ok || it.policy == nil && !it.watch.Dead():
		q.pending.answer(q.at, Unwatched)
		return
	case it.watch.Dead():
		q.pending.answer(q.at, Dead)
		return
	}
	t := l.byID[q.id]
	if t == nil {
		if l.kernel.info(it.watch, &l.info) != nil { // closed by its owner
			q.pending.answer(q.at, Unwatched)
			return
		}
		if s, known := l.known(&it); known {
			q.pending.answer(q.at, s)
			return
		}
		t = l.begin(&it, l.clock())
	} else if t.slow && t.unanswered == 0 {
		q.pending.answer(q.at, SlowReader)
		return
	}
	t.questions = append(t.questions, q)
	if t.waiting {
		t.steps = 0
	}
	l.touch(t)
	if !t.over && t.unanswered > 0 && !t.waiting {
		l.answer(t, Suspect) // it is asked again soon, but not so soon
	}
}

// known is the state of a connection that need not, or can't be asked.
func (l *loop) known(it *item) (State, bool) {
	info := &l.info
	switch age := info.SincePeerHeard(); {
	case info.State == sockopt.StateClose:
		l.deliver(it.id, anyEnd)
		return Dead, true
	case inFlight(info) && repeated(info) > 0 && age >= patience(info):
		return Suspect, false
	case windowClosed(info):
		return SlowReader, true
	case inFlight(info), age < askable:
		return Alive, true
	}
	return Quiet, false
}

// touch has a trial looked at now. A pause between the question and the clock
// would make a silent peer look as if it had been heard since, and the other way
// round an answer look older: where there was one, the kernel is asked again.
func (l *loop) touch(t *trial) {
	for looks := 1; ; looks++ {
		began := l.clock()
		w := l.attend(t)
		if w == nil {
			return
		}
		if now := l.clock(); now-began < int64(tick/2) || looks == 3 {
			l.step(t, w, now)
			return
		}
	}
}

// View returns what the Guard knows of c. It reports false if c isn't watched,
// and if the Guard is nil or closed.
func (g *Guard) View(c net.Conn) (View, bool) {
	key, _, _, err := target(c)
	if err != nil || g == nil {
		return View{}, false
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return View{}, false
	}
	id := g.table.find(key)
	ws := g.table.watches(id, nil)
	var p *Policy
	if e := g.table.get(id); e != nil {
		p = e.policy
	}
	g.mu.Unlock()
	if len(ws) == 0 {
		return View{}, false
	}
	w := ws[0]
	v := View{State: w.State(), Heard: -1, Unanswered: int(w.unanswered.Load()), Cause: w.Cause()}
	if ago, ok := w.Heard(); ok {
		v.Heard = ago
	}
	if p != nil {
		v.DetectWithin, v.FreshFor = p.cfg.DetectWithin, p.cfg.FreshFor
	}
	return v, true
}

// Doubt tells the Guard that a use of the connection failed with err, before
// the connection is closed. If that is of class [Path], or if the kernel knows
// that the peer owes an answer, the other connections to the same address
// become suspects and are asked.
func (w *Watch) Doubt(err error) {
	g := w.guard
	path := Classify(err) == Path
	if !path {
		s := g.askers.Get().(*sockets)
		silent := s.control(w, s.infoFn) == nil && owes(&s.asked)
		g.askers.Put(s)
		if !silent {
			return
		}
	}
	group := g.groupOf(w.id)
	if group == nil {
		return
	}
	g.post(func(in *inbox) { in.doubts = append(in.doubts, doubt{group, path}) })
}

// owes reports whether the peer has left something unanswered for too long.
func owes(info *sockopt.Info) bool {
	if info.State == sockopt.StateClose || info.SincePeerHeard() < patience(info) {
		return false
	}
	if inFlight(info) {
		return repeated(info) > 1
	}
	return info.Probes > 0
}

// doubt is what Doubt leaves for the loop.
type doubt struct {
	group *group
	path  bool
}

func (l *loop) doubt(d doubt) { l.accuseSiblings(d.group, d.path) }

// groupOf returns the group of an entry, which may be nil.
func (g *Guard) groupOf(id entryID) *group {
	it, _ := g.itemOf(id)
	return it.group
}

// itemOf returns what is known of an entry that has a Watch.
func (g *Guard) itemOf(id entryID) (item, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.table.get(id)
	if e == nil {
		return item{}, false
	}
	it := item{id: id, tcp: e.tcp, watch: e.first.Value(), policy: e.policy, group: e.group}
	return it, it.watch != nil
}

// conn returns an entry's connection, or nil.
func (g *Guard) conn(id entryID) net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.table.get(id); e != nil {
		return e.key().conn()
	}
	return nil
}

// suspicionEvery is how often at most all connections to an address are asked
// for the sake of one.
const suspicionEvery = 250 * time.Millisecond

// accuseSiblings is called when a connection died. If its path is to blame, all
// that go to the same address are suspects until they have answered.
func (l *loop) accuseSiblings(g *group, path bool) {
	if g == nil {
		return
	}
	now := l.clock()
	if now-g.accusedAt < int64(suspicionEvery) && (g.accusedPath || !path) && g.accusedAt != 0 {
		return
	}
	g.accusedAt, g.accusedPath = now, path
	l.askSiblings(g, now-int64(askable), path)
}

// askSiblings has all connections of a group asked that were not heard since
// then.
func (l *loop) askSiblings(g *group, since int64, accuse bool) {
	mine := l.info
	defer func() { l.info = mine }()
	l.guard.mu.Lock()
	ids := l.guard.table.siblings(g, l.ids[:0])
	l.guard.mu.Unlock()
	l.ids = nil // in use
	for _, id := range ids {
		t := l.byID[id]
		it, ok := l.guard.itemOf(id)
		if !ok || it.policy == nil || it.watch.Dead() || t != nil && (t.accused || !accuse) {
			continue
		}
		if t == nil {
			if l.kernel.info(it.watch, &l.info) != nil || l.info.State == sockopt.StateClose ||
				inFlight(&l.info) || l.clock()-int64(l.info.SincePeerHeard()) >= since {
				continue // closed, or the next sweep's, or heard
			}
			t = l.begin(&it, l.clock())
		}
		if accuse {
			t.accused = true
			l.become(id, it.watch, Suspect)
		}
	}
	l.ids = ids
}

// rumour is called when a router has said that a connection's peer can't be
// reached, on which the connection doesn't die yet.
func (l *loop) rumour(id entryID) { l.accuseSiblings(l.guard.groupOf(id), false) }

// newcomer takes note of a new connection that others have opened.
func (l *loop) newcomer(n newcomer) {
	if g := l.guard.groupOf(n.id); g != nil && n.began > g.freshBegan {
		l.fresh(g, n.began, n.heard)
	}
}
