package health

import (
	"io"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

const (
	minPatience = 200 * time.Millisecond // what an answer may take at least
	recently    = time.Minute            // used so lately, it will be used again soon
	askable     = time.Second            // keep-alive asks nobody who was heard more lately
)

// patience is how long the answer to a question may take.
func patience(info *sockopt.Info) time.Duration {
	return max(minPatience, info.RTT+4*info.RTTVar)
}

// inFlight reports whether the kernel has data to deliver: it then sends no
// keep-alive probes.
func inFlight(info *sockopt.Info) bool { return info.Unacked > 0 || info.NotSent > 0 }

// repeated is how often in a row the kernel has repeated in vain what is in
// flight, or its question whether the window has opened: the second of those
// comes so soon after the first that a peer with Linux doesn't answer it.
func repeated(info *sockopt.Info) int {
	if info.Unacked > 0 {
		return int(info.Retransmits)
	}
	return max(0, int(info.Probes)-1)
}

// windowClosed reports whether there is data to send that the peer has no room
// for.
func windowClosed(info *sockopt.Info) bool {
	return info.Unacked == 0 && info.NotSent > 0 && (!info.Has(sockopt.FieldSndWnd) || info.SndWnd == 0)
}

// look judges a connection by what the kernel knows of it.
func (l *loop) look(it *item) {
	w, info := it.watch, &l.info
	if w.Dead() || l.kernel.info(w, info) != nil {
		return
	}
	if l.events != nil {
		l.open++ // polling has counted it
	}
	if info.State == sockopt.StateClose {
		l.deliver(it.id, anyEnd) // if that wasn't done
		return
	}
	if it.policy == nil {
		return
	}
	now := l.clock()
	last, wasBusy := w.lookedAt, w.wasBusy
	w.lookedAt, w.wasBusy = now, inFlight(info)
	switch {
	case last == 0: // who knows since when
		w.busyAt = now
	case w.wasBusy && !wasBusy:
		w.busyAt = last
	}
	if !windowClosed(info) {
		w.closedAt, w.borne = 0, false
	}
	if l.byID[it.id] != nil {
		return
	}
	age := info.SincePeerHeard()
	cfg := &it.policy.cfg
	switch {
	case w.wasBusy:
		if repeated(info) > 0 && age >= patience(info) {
			l.step(l.begin(it, max(now-int64(age), w.busyAt)), w, now)
			return
		}
		if windowClosed(info) && wasBusy {
			l.become(it.id, w, SlowReader)
			l.bear(it, last, now)
			return
		}
	case info.Probes > 0 && age >= askable: // the kernel has asked
		l.step(l.begin(it, now), w, now)
		return
	case l.wantsAsking(cfg, info):
		l.step(l.begin(it, now), w, now)
		return
	case cfg.FreshFor > 0 && age >= cfg.FreshFor:
		l.become(it.id, w, Quiet)
		return
	}
	l.become(it.id, w, Alive)
}

// wantsAsking reports whether an idle connection is to be asked so that it stays
// fresh, a little before it isn't any more. The kernel's keep-alive comes first
// if it is frequent enough.
func (l *loop) wantsAsking(cfg *PolicyConfig, info *sockopt.Info) bool {
	if cfg.FreshFor < 0 || info.State != sockopt.StateEstablished && info.State != sockopt.StateCloseWait {
		return false
	}
	limit := cfg.FreshFor
	if min(info.LastDataSent, info.LastDataRecv) > recently {
		if cfg.AskedBeforeUse {
			return false
		}
		limit = cfg.DetectWithin / 2 // the rest is for the verdict
	}
	return info.SincePeerHeard() >= max(askable, limit-limit/20)
}

// become notes a connection's State, of which Dead is none, and tells those who
// want to know.
func (l *loop) become(id entryID, w *Watch, s State) {
	if State(w.known.Load()) == s {
		return
	}
	l.watches = l.guard.watchesOf(id, l.watches[:0])
	defer clear(l.watches)
	change := StateChange{To: s, Silent: l.info.SincePeerHeard()}
	if t := l.byID[id]; t != nil {
		change.Silent, change.Unanswered = t.silence(l.clock()), t.unanswered
	}
	for _, w := range l.watches {
		before := w.become(s)
		if before == s || !w.armed() {
			continue
		}
		change.From = before
		l.report(w, change)
		if w.told != nil && (before == Suspect || s == Suspect) {
			w.told(w)
		}
	}
}

// report tells the hook of w's policy.
func (l *loop) report(w *Watch, change StateChange) {
	if w.policy == nil || w.policy.cfg.StateChanged == nil {
		return
	}
	if conn := l.guard.conn(w.id); conn != nil {
		change.Conn, change.Local, change.Remote = conn, conn.LocalAddr(), conn.RemoteAddr()
	}
	w.policy.cfg.StateChanged(change)
}

// bury notes a death and tells everybody.
func (l *loop) bury(id entryID, watches []*Watch, cause error) {
	change := StateChange{To: Dead, Cause: cause}
	if t := l.byID[id]; t == nil {
		if l.kernel.info(watches[0], &l.info) == nil {
			change.Silent = l.info.SincePeerHeard()
		}
	} else {
		now := l.clock()
		change.Silent, change.Unanswered = t.silence(now), t.unanswered
		if t.primed != 0 && Classify(cause) == Path {
			cause = t.cause(now, false)
		}
		l.answer(t, Dead)
		l.end(t)
	}
	for _, w := range watches {
		w.die(cause)
	}
	path, reset := false, false
	for _, w := range watches {
		change.From, change.Cause = State(w.known.Load()), w.Cause()
		_, change.Severed = change.Cause.(*SilenceError)
		path = path || Classify(change.Cause) == Path
		reset = reset || change.Cause != io.EOF
		if w.notify() {
			l.report(w, change)
		}
	}
	if path || reset {
		l.accuseSiblings(l.guard.groupOf(id), path)
	}
}
