package health

import "time"

const (
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
)

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
// nobody had asked for long, not so soon after it that any blip would do. Where
// data is in flight the kernel's user timeout comes a little later, and must not
// come first: if a read and a write wait, the read then ends as if the peer had
// closed.
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
