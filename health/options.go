package health

import (
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

const kernelRTOMax = 120 * time.Second // TCP_RTO_MAX_MS of whoever has set none

// save reads the connection's own options, once.
func (l *loop) save(t *trial, w *Watch) bool {
	t.saved = t.saved || l.kernel.timers(w, &t.timers) == nil
	return t.saved
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
