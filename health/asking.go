package health

import (
	"container/heap"
	"time"
)

const (
	// askEvery is more than the 500 ms within which a Linux peer answers one
	// probe only (net.ipv4.tcp_invalid_ratelimit).
	askEvery = 600 * time.Millisecond

	// Kernels send no more than this without losing answers in their backlogs.
	probesPerWindow = 200
	probeWindow     = 5 * time.Millisecond

	lookEvery = 150 * time.Millisecond // at a busy suspect

	patientSteps = 9 // where pause begins for those whom nobody waits for
)

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
