package health

import (
	"container/heap"
	"net"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

const (
	// askEvery is more than the 500 ms within which a Linux peer answers one
	// probe only (net.ipv4.tcp_invalid_ratelimit).
	askEvery = 600 * time.Millisecond

	spreadAfter = 2 // unanswered: the siblings are asked
	silentAfter = 3 // unanswered: a new connection is tried

	// Unanswered in all, and of them after a new connection worked, which end a
	// suspect: if another one is as silent, and if none is.
	lostTogether, lostTogetherFresh = 4, 1
	lostAlone, lostAloneFresh       = 5, 2

	// lostInLoss is lostAlone where a suspect of the same address was alive after
	// all within lossy: packets get lost there.
	lostInLoss = 8
	lossy      = time.Minute

	// lostBehindWindow is for peers that have closed their window: the kernel
	// asks them once in its RTO max.
	lostBehindWindow = 4

	// minDoubt is for how long a suspect is asked before DetectWithin ends it.
	minDoubt = 3 * time.Second

	// slack is what the last question before the end of DetectWithin, and its
	// answer, may take.
	slack = 750 * time.Millisecond

	// Kernels send no more than this without losing answers in their backlogs.
	probesPerWindow = 200
	probeWindow     = 5 * time.Millisecond

	lookEvery = 150 * time.Millisecond // at a busy suspect

	maxFree = 8192 // trials that are kept for others; some 2 MB

	kernelRTOMax = 120 * time.Second // TCP_RTO_MAX_MS of whoever has set none
)

// trial is what the Guard does with a connection that is asked, or silent. Times
// are on the Guard's clock.
type trial struct {
	id        entryID
	tcp       weak.Pointer[net.TCPConn]
	group     *group
	policy    *Policy
	questions []question // of callers of Check

	base    int64 // when the peer was last heard
	begun   int64
	since   int64 // since when it has owed an answer, at the earliest
	freshAt int64 // when a new connection of the group worked since then; 0: none has
	asked   int64 // when it was last asked; in the future if the kernel waits
	due     int64 // of the next step
	next    int64 // what due becomes after the present one
	index   int   // in the heap

	closedAt   int64
	patience   time.Duration
	unanswered int
	fresh      int // of them, put after freshAt
	repeats    int // of what is in flight, when last looked at
	steps      int // since asked
	segsOut    uint32

	probed    bool // the kernel's own probe is out, it seems
	waiting   bool // for an answer whose time isn't over
	busy      bool // what is in flight asks; we don't
	accused   bool // a Suspect for a sibling's sake
	spread    bool
	counted   bool // in group.silent
	saved     bool // timers are the connection's own
	asking    bool // and have been changed
	slow      bool // the peer has closed its window; since closedAt
	condemned bool
	over      bool
	timers    sockopt.Timers
	primed    int64         // the kernel ends it at its next repetition, before this; 0: it doesn't
	hurried   time.Duration // the RTO max that we have set; negative: not to be set
}

// silence is how long the peer hasn't been heard.
func (t *trial) silence(now int64) time.Duration { return time.Duration(now - t.base) }

// afterFresh reports whether the last question was put after a new connection
// worked, in the time of this trial.
func (t *trial) afterFresh() bool {
	if t.freshAt == 0 && t.group.freshBegan >= t.since {
		t.freshAt = t.group.freshAt // there may be ever more of them
	}
	return t.freshAt != 0 && t.asked > t.freshAt
}

// begin opens a trial of a connection, whose Info is in l.info.
func (l *loop) begin(it *item, since int64) *trial {
	var t *trial
	if n := len(l.free); n > 0 {
		t, l.free = l.free[n-1], l.free[:n-1]
	} else {
		t = &trial{}
	}
	now := l.clock()
	t.id, t.group, t.policy, t.tcp = it.id, it.group, it.policy, it.tcp
	t.begun = now
	t.base = now - int64(l.info.SincePeerHeard())
	t.since = max(since, t.base)
	t.patience = patience(&l.info)
	t.due = now
	t.probed = !inFlight(&l.info) && l.info.Probes > 0
	t.group.trials++
	l.guard.wary.Store(true)
	l.byID[t.id] = t
	heap.Push(&l.due, t)
	return t
}

// end closes a trial.
func (l *loop) end(t *trial) {
	heap.Remove(&l.due, t.index)
	delete(l.byID, t.id)
	t.group.trials--
	if t.counted {
		t.group.silent--
	}
	t.over = true
	l.ended = append(l.ended, t) // its step may still be under way
}

// tryAll takes the steps that are due.
func (l *loop) tryAll() {
	for i, t := range l.ended {
		*t = trial{questions: t.questions[:0]}
		if l.ended[i] = nil; len(l.free) < maxFree {
			l.free = append(l.free, t)
		}
	}
	l.ended = l.ended[:0]
	for len(l.due) > 0 {
		now := l.clock()
		t := l.due[0]
		if t.due > now {
			return
		}
		l.touch(t)
	}
}

// attend reads the Info of a trial's connection and returns its Watch, or nil if
// that was the end of the trial: nobody watches it any more, or its owner has
// closed it.
func (l *loop) attend(t *trial) *Watch {
	it, ok := l.guard.itemOf(t.id)
	if ok && it.policy != nil {
		if l.kernel.info(it.watch, &l.info) == nil {
			l.follow(t, it.watch, it.policy)
			return it.watch
		}
	} else if c := t.tcp.Value(); c != nil { // the Watch was dropped, the connection wasn't
		if raw, err := c.SyscallConn(); err == nil {
			l.restore(t, &Watch{raw: raw})
		}
	}
	l.answer(t, Unwatched)
	l.end(t)
	return nil
}

// follow puts a trial under the policy that is now in force.
func (l *loop) follow(t *trial, w *Watch, p *Policy) {
	if t.policy == p {
		return
	}
	t.policy = p
	if far := t.far(l.clock()); t.timers.Shielded > 0 && !t.slow && !t.condemned && t.primed == 0 && l.kernel.shield(w, far) == nil {
		t.timers.Shielded = far
	}
}

// step takes a trial's next step. The connection's Info is in l.info.
func (l *loop) step(t *trial, w *Watch, now int64) {
	info := &l.info
	if info.State == sockopt.StateClose {
		l.closed(t)
		return
	}
	t.next = never
	switch {
	case t.slow:
		l.stepSlow(t, w, now)
	case t.condemned:
		l.sever(t, w, now, false)
	case now-int64(info.SincePeerHeard()) > t.base+int64(tick):
		if t.asking && info.Probes > 0 && !inFlight(info) {
			l.answeredOnce(t, w, now)
		} else {
			l.answered(t, w, now)
		}
	default:
		l.interrogate(t, w, now)
	}
	if !t.over {
		t.due = max(t.next, now+int64(time.Millisecond))
		heap.Fix(&l.due, t.index)
	}
}

// interrogate goes on with a trial whose connection is as silent as before.
func (l *loop) interrogate(t *trial, w *Watch, now int64) {
	before := t.unanswered
	if inFlight(&l.info) {
		l.stepBusy(t, now)
	} else {
		l.stepIdle(t, w, now)
	}
	if t.unanswered != before || t.accused {
		l.suspect(t, w, now)
	}
	if t.unanswered != before {
		l.answer(t, Suspect)
	}
	l.weigh(t, w, now)
}

// stepBusy counts what the kernel has repeated in vain. A question that we have
// put is void: the kernel doesn't ask while something is in flight.
func (l *loop) stepBusy(t *trial, now int64) {
	n := repeated(&l.info)
	if !t.busy {
		if t.unanswered < silentAfter {
			t.begun = now // what was asked before may have been under way for good reasons
		}
		t.busy, t.waiting, t.repeats = true, false, 0
	} else if n > t.repeats && t.afterFresh() {
		t.fresh += n - t.repeats
	}
	if n > t.repeats {
		t.unanswered += n - t.repeats
	}
	t.repeats = n
	t.asked = now // the last look
	t.next = now + int64(lookEvery)
}

// stepIdle asks, and waits for the answer.
func (l *loop) stepIdle(t *trial, w *Watch, now int64) {
	t.busy = false
	if t.probed { // by the kernel, unless it has merely not forgotten an old probe
		t.probed = false
		if l.save(t, w) && t.timers.KeepAlive.Enable && l.info.SincePeerHeard() >= t.timers.KeepAlive.Idle {
			t.expect(now, l.info.SegsOut-1)
		}
	}
	if t.waiting {
		over := t.asked + int64(t.patience)
		if now < over {
			t.next = min(over, now+int64(t.pause()))
			return
		}
		if l.info.SegsOut == t.segsOut && l.info.Probes == 0 && now < over+int64(time.Second) {
			t.next = now + int64(tick) // a starved kernel hasn't sent it yet
			return
		}
		t.waiting = false
		t.unanswered++
		if t.afterFresh() {
			t.fresh++
		}
	}
	if next := t.asked + int64(l.spacing(t)); t.asked != 0 && now < next {
		t.next = min(next, now+int64(time.Second)) // the shielded kernel asks, too
		return
	}
	l.put(t, w, now)
}

// spacing is how far apart questions are: at first as the verdict needs it, and
// in a long outage so that all suspects together don't flood the path.
func (l *loop) spacing(t *trial) time.Duration {
	if t.unanswered < lostAlone+lostAloneFresh {
		return askEvery
	}
	return max(time.Second, t.policy.cfg.DetectWithin/50, time.Duration(t.group.trials)*probeWindow)
}

// patientSteps is where pause begins for those whom nobody waits for.
const patientSteps = 9

// pause is how long to wait before the next look for an answer: on a short path
// it takes one of the kernel's ticks.
func (t *trial) pause() time.Duration {
	t.steps++
	return time.Millisecond << min(t.steps/3, 5)
}

// put asks the peer, unless too many were asked just now.
func (l *loop) put(t *trial, w *Watch, now int64) {
	if now-l.window >= int64(probeWindow) {
		l.window, l.probes = now, 0
	}
	if l.probes >= probesPerWindow {
		t.next = l.window + int64(probeWindow)
		return
	}
	if !l.save(t, w) {
		t.next = now + int64(askEvery)
		return
	}
	// The kernel ends a connection whose user timeout is over at the second
	// unanswered probe, which it may send itself before we look.
	age := l.info.SincePeerHeard()
	ut, count := t.timers.UserTimeout, t.timers.KeepAlive.Count
	if t.unanswered > 0 || t.patience > askable-tick || ut > 0 && ut < age+2*time.Second || ut == 0 && count <= 2 {
		l.shield(t, w, t.far(now))
	}
	l.learn(t, w)
	l.probes++
	t.asking = true
	if err := l.kernel.ask(w); err != nil {
		t.next = now + int64(askEvery)
		return
	}
	t.expect(now+int64(max(0, askable-age)), l.info.SegsOut)
	t.next = t.asked + int64(t.pause())
}

// expect has the trial wait for the answer to a question that was put at that
// time, before which segsOut segments had been sent.
func (t *trial) expect(at int64, segsOut uint32) {
	t.asked, t.waiting, t.segsOut, t.steps = at, true, segsOut, patientSteps
	if len(t.questions) > 0 || t.accused {
		t.steps = 0
	}
}

// far is a user timeout that the kernel doesn't reach before the Guard has had
// its say, and reaches if the Guard never says anything any more.
func (t *trial) far(now int64) time.Duration {
	return (t.silence(now) + 3*t.policy.cfg.DetectWithin).Truncate(time.Millisecond)
}

// shield keeps the kernel from ending the connection before d has passed.
func (l *loop) shield(t *trial, w *Watch, d time.Duration) {
	if t.timers.Shielded != 0 || !l.save(t, w) {
		return
	}
	l.learn(t, w)
	t.asking = true
	if l.kernel.shield(w, d) == nil {
		t.timers.Shielded = d
	}
}

// learn takes what has changed since save for its owner's.
func (l *loop) learn(t *trial, w *Watch) {
	var now sockopt.Timers
	if !t.asking || l.kernel.timers(w, &now) != nil {
		return
	}
	if t.timers.Shielded > 0 { // restore leaves alone what differs, but asking doesn't
		if now.KeepAlive.Idle != askable {
			t.timers.KeepAlive.Enable, t.timers.KeepAlive.Idle = now.KeepAlive.Enable, now.KeepAlive.Idle
		}
		return
	}
	if now.KeepAlive.Idle == askable { // ours
		now.KeepAlive.Enable, now.KeepAlive.Idle = t.timers.KeepAlive.Enable, t.timers.KeepAlive.Idle
	}
	t.timers = now
}

// hurry has the kernel repeat what is in flight so often that it notices the end
// of an outage before DetectWithin is over, unless its owner has seen to that.
func (l *loop) hurry(t *trial, w *Watch) {
	often := max(time.Second, t.policy.cfg.DetectWithin/10)
	if !t.busy || t.hurried != 0 || often >= kernelRTOMax || t.patience > often/2 {
		return
	}
	before, err := l.kernel.rtoMax(w, often)
	switch {
	case err != nil: // before Linux 6.15
		t.hurried = -1
	case before != kernelRTOMax:
		_, _ = l.kernel.rtoMax(w, before)
		t.hurried = -1
	default:
		t.hurried = often
	}
}

// restore gives the connection its own options back. It fails if its owner has
// closed it.
func (l *loop) restore(t *trial, w *Watch) {
	if t.condemned {
		_, _ = l.kernel.sever(w, func(*sockopt.Info) bool { return true })
		return
	}
	if t.asking {
		// What was asked in vain counts for the kernel, too, and its own count
		// may be less. Its owner's limit in time is as good.
		ka := t.timers.KeepAlive
		if !inFlight(&l.info) && t.timers.UserTimeout == 0 && l.info.Probes > 0 && int(l.info.Probes)+1 >= ka.Count {
			t.timers.UserTimeout = ka.Idle + time.Duration(ka.Count)*ka.Interval
		}
		_ = l.kernel.restore(w, &t.timers)
	}
	if t.hurried > 0 {
		if now, err := l.kernel.rtoMax(w, kernelRTOMax); err == nil && now != t.hurried {
			_, _ = l.kernel.rtoMax(w, now) // its owner's
		}
	}
}

// save reads the connection's own options, once.
func (l *loop) save(t *trial, w *Watch) bool {
	t.saved = t.saved || l.kernel.timers(w, &t.timers) == nil
	return t.saved
}

// suspect is called when a question has gone unanswered.
func (l *loop) suspect(t *trial, w *Watch, now int64) {
	w.unanswered.Store(uint32(t.unanswered))
	g := t.group
	g.heardAt = max(g.heardAt, t.base)
	// Behind a closed window the kernel counts a user timeout from when that was
	// closed.
	if t.unanswered > 0 && (!t.busy || l.info.Unacked > 0) {
		l.shield(t, w, t.far(now))
		l.hurry(t, w)
	}
	if t.unanswered >= silentAfter && !t.counted {
		t.counted = true
		g.silent++
	}
	l.become(t.id, w, Suspect)
	if t.unanswered >= spreadAfter && !t.spread {
		t.spread = true
		if g.spreadAt == 0 || now-g.spreadAt >= int64(suspicionEvery) {
			g.spreadAt = now
			l.askSiblings(g, t.since, false)
		}
	}
}

// enough is how much a suspect that is alone must have left unanswered.
func (t *trial) enough() int {
	if at := t.group.answeredAt; at != 0 && t.since-at < int64(lossy) {
		return lostInLoss
	}
	return lostAlone
}

// weigh ends a suspect if there is enough against it, and otherwise sees to it
// that there will be.
func (l *loop) weigh(t *trial, w *Watch, now int64) {
	g := t.group
	together := g.silent > 1 && g.answeredAt < t.since
	switch {
	case t.unanswered >= t.enough() && t.fresh >= lostAloneFresh && (!t.busy || l.info.LastDataSent >= t.patience),
		together && t.unanswered >= lostTogether && t.fresh >= lostTogetherFresh && !t.busy: // what was just repeated has had no time
		l.sever(t, w, now, true)
		return
	case t.unanswered >= silentAfter && g.freshBegan < t.since:
		l.sendCanary(g, t.policy, t.patience, now)
	}
	// A closed window is asked about so seldom that much time proves little.
	if t.unanswered < spreadAfter || t.busy && t.unanswered < silentAfter || windowClosed(&l.info) && t.unanswered < lostBehindWindow {
		return
	}
	end := t.deadline()
	l.prime(t, w, now, end)
	if end = max(end, t.primed); now < end {
		t.next = min(t.next, end)
	} else {
		l.condemn(t, w, now)
	}
}

// deadline is when DetectWithin is over: since anybody at the address was heard,
// but no later than counted from the first unanswered question, and, where
// nobody had asked for long, not so soon after it that any blip would do. Where data is in
// flight the kernel's user timeout comes a little later, and must not come first:
// if a read and a write wait, the read then ends as if the peer had closed.
func (t *trial) deadline() int64 {
	within := t.policy.cfg.DetectWithin
	doubted := int64(min(within/2, minDoubt))
	if t.busy {
		return max(t.since+int64(within), t.begun+max(doubted, int64(min(t.patience, within))))
	}
	end := min(max(t.base, t.group.heardAt), t.since) + int64(within)
	return max(end, t.since+doubted) + int64(slack)
}

// answered closes the trial of a connection whose peer was heard.
func (l *loop) answered(t *trial, w *Watch, now int64) {
	l.restore(t, w)
	if t.unanswered > 0 {
		t.group.answeredAt = now
	}
	unsure := t.group.trials > 1 && t.unanswered >= silentAfter
	g := t.group
	w.unanswered.Store(0)
	l.answer(t, Alive)
	l.end(t)
	l.become(t.id, w, Alive)
	if unsure {
		l.hasten(g) // an outage is over, perhaps
	}
}

// answeredOnce clears a suspect of which the kernel has asked one more question
// since it was heard: the trial goes on until that is answered, or the connection
// would have it against it under options of its own.
func (l *loop) answeredOnce(t *trial, w *Watch, now int64) {
	heard := now - int64(l.info.SincePeerHeard())
	t.base, t.since, t.begun = heard, heard, now
	t.unanswered, t.fresh, t.freshAt, t.waiting, t.accused = 0, 0, 0, false, false
	if t.counted {
		t.counted = false
		t.group.silent--
	}
	w.unanswered.Store(0)
	l.answer(t, Alive)
	l.become(t.id, w, Alive)
	t.next = now + int64(tick)
}

// hasten will have the suspects of a group asked as soon as they would answer.
func (l *loop) hasten(g *group) {
	if !g.hasty {
		g.hasty = true
		l.hasty = append(l.hasty, g)
	}
}

// hastenAll does so for all groups of this turn.
func (l *loop) hastenAll(now int64) {
	if len(l.hasty) == 0 {
		return
	}
	for _, t := range l.byID {
		if t.group.hasty && !t.waiting && !t.busy && !t.condemned {
			t.due = min(t.due, max(now, t.asked+int64(askEvery)))
			heap.Fix(&l.due, t.index)
		}
	}
	for _, g := range l.hasty {
		g.hasty = false
	}
	clear(l.hasty)
	l.hasty = l.hasty[:0]
}

// closed closes the trial of a connection that has ended.
func (l *loop) closed(t *trial) {
	l.deliver(t.id, anyEnd)
	if !t.over { // stopped meanwhile
		l.answer(t, Unwatched)
		l.end(t)
	}
}

// trialHeap is ordered by when trials are due.
type trialHeap []*trial

func (h trialHeap) Len() int           { return len(h) }
func (h trialHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h trialHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *trialHeap) Push(x any) {
	t := x.(*trial)
	t.index = len(*h)
	*h = append(*h, t)
}
func (h *trialHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}
