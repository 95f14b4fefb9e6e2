package health

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// Watch is a Guard's view of one connection. See [Guard.Watch].
//
// Its methods may be called concurrently with everything, but for Sniff, which
// may not be called concurrently with itself.
type Watch struct {
	guard  *Guard
	policy *Policy // its own
	raw    syscall.RawConn
	look   func(fd uintptr) // sniff, made once
	told   func(*Watch)
	found  error // by the last sniff
	cause  atomic.Pointer[error]
	id     entryID

	// The loop's.
	lookedAt int64 // when, on the Guard's clock
	busyAt   int64 // when something began to be in flight, at the earliest
	closedAt int64 // when the peer closed its window, at the earliest; 0: it is open

	known      atomic.Uint32 // State, but for Dead
	unanswered atomic.Uint32
	claimed    atomic.Bool // the last callback has begun, or all are forbidden
	foundDead  bool
	layered    bool
	policed    bool // the connection can be under its policy
	wasBusy    bool // the loop's: something was in flight then
	borne      bool // the loop's: the peer may keep its window closed for ever
}

// State returns what is known of the connection. It asks nobody. Without a
// policy, and where this system doesn't tell, it is Unwatched until it is Dead.
func (w *Watch) State() State {
	if w.Dead() {
		return Dead
	}
	return State(w.known.Load())
}

// Dead reports whether the connection is known to be dead. It asks nobody.
func (w *Watch) Dead() bool { return w.cause.Load() != nil }

// Cause returns why the connection is dead, and nil while it isn't known to be:
// [io.EOF] if the peer closed it, a [*SilenceError] or [*SlowReaderError] if the
// Guard ended it or had the kernel end it, otherwise an errno, or an error that
// says that the reason isn't known.
//
// It never takes an error away from who reads from the connection. Therefore,
// unless Sniff met the errno itself, it is inferred, which Linux alone allows:
// ETIMEDOUT if the peer was silent for the connection's time limit, otherwise
// ECONNRESET, whatever a router may have said before. If the reader was faster,
// nothing but such a silence can be told any more, and the reason isn't known.
func (w *Watch) Cause() error {
	if cause := w.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// Heard asks the kernel how long ago anything was received from the peer, the
// answer to a keep-alive probe included. It reports false where that can't be
// had: not on Linux, on a Unix socket, after the connection was closed here. It
// costs one system call and allocates nothing.
func (w *Watch) Heard() (ago time.Duration, ok bool) {
	s := w.guard.askers.Get().(*sockets)
	defer w.guard.askers.Put(s)
	if s.control(w, s.infoFn) != nil || s.asked.State == sockopt.StateClose {
		return 0, false
	}
	return s.asked.SincePeerHeard(), true
}

// Sniff asks the kernel now, which closes the gap that a Guard leaves whose
// goroutine hasn't been running. It sends nothing, reads nothing, ignores
// deadlines, costs one system call and allocates nothing. It returns
//
//   - nil if the kernel knows nothing against the connection's use;
//   - [ErrUnread] if bytes wait. Not under TLS, where they may be session
//     tickets, which any healthy TLS 1.3 connection may have;
//   - the Cause, if the connection is dead, which Dead reports from then on;
//     the callback still comes from the Guard;
//   - an errno without a death, if a router's word waits on a socket with
//     IP_RECVERR: the connection may heal, but this is not the time to use it;
//     or if a sandbox forbids the question;
//   - an error that wraps [net.ErrClosed] if it was closed here.
//
// The caller must own the connection: nobody else may be reading from it, as
// Sniff may be the one who receives its pending error, which Cause keeps.
func (w *Watch) Sniff() error {
	if cause := w.Cause(); cause != nil {
		return cause
	}
	if err := w.raw.Control(w.look); err != nil {
		return err
	}
	if w.foundDead {
		w.die(w.found)
	}
	if cause := w.Cause(); cause != nil {
		return cause
	}
	return w.found
}

func (w *Watch) sniff(fd uintptr) { w.found, w.foundDead = sniff(fd, w.layered) }

// die records the cause of death, which isn't nil. The first one counts.
func (w *Watch) die(cause error) { w.cause.CompareAndSwap(nil, &cause) }

// Stop ends the watching: no callback will begin any more. It reports whether
// it prevented the last one, of the death; if not, that has begun, and may still
// be running, or Stop was called before. One of a mere suspicion may be running,
// too, and so may the ending of a suspect. What State, Dead and Cause say
// remains, and Sniff still works.
func (w *Watch) Stop() bool {
	prevented := w.claim()
	w.guard.unwatch(w)
	return prevented
}

// notify calls back for the last time, if that wasn't done or forbidden yet.
func (w *Watch) notify() (first bool) {
	first = w.claim()
	if first && w.told != nil {
		w.told(w)
	}
	return first
}

// become notes a State other than Dead, and returns the one before.
func (w *Watch) become(s State) (before State) { return State(w.known.Swap(uint32(s))) }

// claim reports true once.
func (w *Watch) claim() bool { return w.claimed.CompareAndSwap(false, true) }

// armed reports whether a death would be news.
func (w *Watch) armed() bool { return !w.claimed.Load() }
