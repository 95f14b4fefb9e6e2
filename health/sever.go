package health

import (
	"fmt"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// condemn has the kernel end a suspect whose time is over, so that its owner
// reads what the kernel says of silence: ETIMEDOUT. It does so at its next tick
// if nothing is in flight and the last probe has gone unanswered.
func (l *loop) condemn(t *trial, w *Watch, now int64) {
	if t.busy || l.info.Probes == 0 || l.kernel.shield(w, time.Millisecond) != nil || l.kernel.ask(w) != nil {
		l.sever(t, w, now, false)
		return
	}
	l.accept(t, now, false)
	t.condemned, t.timers.Shielded = true, time.Millisecond
	t.next = now + int64(minPatience/4)
}

// fewUnacked is so little that no write waits for room behind it: where a read
// and a write wait, and the kernel ends the connection, the read ends as if the
// peer had closed.
const fewUnacked = 3

// prime has the kernel end a busy suspect at a repetition that is due about when
// its time is over, so that its owner reads what the kernel says of silence:
// ETIMEDOUT, or what a router said.
func (l *loop) prime(t *trial, w *Watch, now, end int64) {
	info := &l.info
	if !t.busy || t.primed != 0 || !t.saved || info.NotSent > 0 || info.Unacked == 0 || info.Unacked > fewUnacked {
		return
	}
	next := now + int64(info.RTO-info.LastDataSent)
	if next < end-int64(400*time.Millisecond) || next > end+int64(600*time.Millisecond) || next < now {
		return
	}
	if l.kernel.shield(w, time.Millisecond) == nil {
		t.asking, t.timers.Shielded = true, time.Millisecond
		t.primed = next + int64(minPatience/2)
	}
}

// accept makes silence the cause of death of a trial's connection.
func (l *loop) accept(t *trial, now int64, fresh bool) {
	cause := t.cause(now, fresh)
	l.watches = l.guard.watchesOf(t.id, l.watches[:0])
	for _, w := range l.watches {
		w.die(cause)
	}
	clear(l.watches)
}

// cause is why a trial ends its connection.
func (t *trial) cause(now int64, fresh bool) error {
	remote := net.TCPAddrFromAddrPort(t.group.addr)
	if t.slow && t.unanswered == 0 {
		return &SlowReaderError{Remote: remote, Closed: time.Duration(now - t.closedAt)}
	}
	return &SilenceError{Remote: remote, Silent: t.silence(now), Unanswered: t.unanswered, Fresh: fresh}
}

// sever ends a suspect, unless it is heard in the last moment.
func (l *loop) sever(t *trial, w *Watch, now int64, fresh bool) {
	done, err := l.kernel.sever(w, func(info *sockopt.Info) bool {
		heard := l.clock()-int64(info.SincePeerHeard()) > t.base+int64(tick)
		if heard && !t.condemned && !t.slow || info.State == sockopt.StateClose {
			return false
		}
		l.accept(t, now, fresh) // before, so that whoever reads the reset finds the reason
		return true
	})
	if !done {
		if err != nil { // closed by its owner
			l.answer(t, Unwatched)
			l.end(t)
		}
		t.next = now // heard, or ended by the kernel
		return
	}
	if err != nil {
		if conn := l.guard.conn(t.id); conn != nil {
			_ = closeHard(conn)
		}
	}
	l.bury(t.id, l.guard.watchesOf(t.id, nil), w.Cause())
}

// Sever ends c, which is watched, for a reason that [Guard.Cause] tells from
// then on, and every Watch of it. On Linux its owner's reads and writes return
// ECONNRESET, also those that wait already, and the descriptor remains the
// owner's to close; elsewhere they return [net.ErrClosed]. Nothing that was
// unsent or unread remains, and the peer, if it is there, reads a reset. A nil
// cause is an error, as is a connection that isn't watched or has been closed;
// one that is dead already stays so, and keeps its cause.
func (g *Guard) Sever(c net.Conn, cause error) error {
	if cause == nil {
		return fmt.Errorf("health: sever %v: the cause is nil; say why", c.RemoteAddr())
	}
	key, raw, _, err := target(c)
	if err != nil {
		return err
	}
	ws := g.watchesOn(key)
	if len(ws) == 0 {
		return fmt.Errorf("health: sever %v: it isn't watched", c.RemoteAddr())
	}
	var opErr error
	if err := raw.Control(func(fd uintptr) {
		for _, w := range ws {
			w.die(cause) // before, so that whoever reads the reset finds it
		}
		opErr = sockopt.Disconnect(fd)
	}); err != nil {
		return fmt.Errorf("health: sever %v: %w", c.RemoteAddr(), err)
	}
	if opErr != nil {
		opErr = closeHard(key.conn())
	}
	g.post(func(in *inbox) { in.severed = append(in.severed, ws[0].id) })
	return opErr
}

// severed tells everybody of a connection that Sever has ended.
func (l *loop) severed(id entryID) {
	if watches := l.guard.watchesOf(id, nil); len(watches) > 0 {
		l.bury(id, watches, watches[0].Cause())
	}
}

// acquit closes the trial of a connection that is under no policy any more.
func (l *loop) acquit(w *Watch) {
	t := l.byID[w.id]
	if t == nil {
		return
	}
	l.restore(t, w)
	l.answer(t, Unwatched)
	l.end(t)
}

// putBack is called when the loop ends: connections go on under the kernel's
// options alone.
func (l *loop) putBack() {
	for _, t := range l.byID {
		if it, ok := l.guard.itemOf(t.id); ok {
			l.restore(t, it.watch)
		}
		l.answer(t, Unwatched)
	}
}
