package health

import "time"

// bear deals with a connection whose peer has closed its window, and answers
// that it lives. If it has a user timeout, the kernel would end it for that, and
// do it badly: of a read and a write that wait, one ends as if the peer had
// closed. So the Guard keeps the kernel from it, and does it itself in time.
func (l *loop) bear(it *item, last, now int64) {
	w := it.watch
	if w.closedAt == 0 {
		w.closedAt = last
	}
	if w.borne || now-w.closedAt < int64(it.policy.cfg.DetectWithin/4) {
		return
	}
	t := l.begin(it, w.closedAt)
	t.busy, t.slow, t.closedAt = true, true, w.closedAt
	l.touch(t)
}

// stepSlow is step for a connection whose peer's window was closed.
func (l *loop) stepSlow(t *trial, w *Watch, now int64) {
	info := &l.info
	if !windowClosed(info) {
		l.answered(t, w, now)
		return
	}
	if !l.save(t, w) || t.timers.UserTimeout == 0 {
		w.borne = true // and sweeps see whether it answers
		l.answer(t, SlowReader)
		l.end(t)
		return
	}
	closed := time.Duration(now - t.closedAt)
	// The owner's limit may be far off.
	within := t.policy.cfg.DetectWithin
	l.shield(t, w, max(closed+3*within, t.timers.UserTimeout+within).Truncate(time.Millisecond))
	if heard := now - int64(info.SincePeerHeard()); heard > t.base+int64(tick) {
		t.base, t.since, t.unanswered = heard, heard, 0
		w.unanswered.Store(0)
		l.become(t.id, w, SlowReader)
	} else if n := repeated(info); n > t.unanswered {
		t.unanswered = n
		l.suspect(t, w, now)
		l.answer(t, Suspect)
	}
	dead := t.unanswered >= lostBehindWindow && now >= t.since+int64(within)
	if dead || closed >= t.timers.UserTimeout {
		l.sever(t, w, now, false)
		return
	}
	t.next = now + int64(lookEvery)
}
