package pool

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// Conn is a checked-out connection. It is a small value; copies are the same
// checkout, and whichever copy's Release, Fail or Hijack comes first ends it
// for all: what comes later does nothing, whoever holds the connection by
// then. The zero Conn behaves like one that was given back.
//
// Methods may be called concurrently.
type Conn[T any] struct {
	e   *entry[T]
	gen uint64
}

// Value returns the connection. It must not be used after the checkout ended.
func (c Conn[T]) Value() T {
	if c.e == nil {
		var zero T
		return zero
	}
	return c.e.value
}

// Release gives the connection back for others to use: every reply was read
// to its end, and no deadline was left behind. (Unread bytes are looked for at
// the next checkout, but not if that comes within a millisecond of the last
// one; Do looks always.) After an error call Fail.
func (c Conn[T]) Release() {
	e := c.e
	if e == nil {
		return
	}
	p := e.pool
	if p.observed {
		p.release(c, nil)
		return
	}
	p.mu.Lock()
	if e.gen != c.gen || e.state != inUse {
		p.mu.Unlock()
		return
	}
	e.gen++
	if p.waiters.first != nil || e.flags.Load() != 0 || e.epoch != p.epoch || p.closed || e.unproven {
		p.releaseSlow(e)
		return
	}
	// No clock is read here, it would be a third of the whole cost: the
	// latest reading is an upkeep period old at the most, so that the idle
	// limit can come that much early, never late.
	e.state = idle
	e.idleSince = max(p.clock, e.usedAt)
	p.idle.pushFront(e)
	p.mu.Unlock()
}

// releaseSlow is entered with the lock held and leaves without it.
func (p *Pool[T]) releaseSlow(e *entry[T]) (kept bool) {
	if e.has(flagSuspect) {
		p.mu.Unlock()
		p.relieve(e)
		p.mu.Lock()
		if e.state != inUse { // Close took it meanwhile
			p.mu.Unlock()
			return false
		}
	}
	if why, unfit := p.unfitLocked(e); unfit {
		p.retireLocked(e, why, nil)
		p.mu.Unlock()
		p.ledger.destroy(e)
		return false
	}
	var k wake[T]
	p.putLocked(e, &k)
	if e.unproven {
		p.provenLocked(e)
	}
	p.mu.Unlock()
	k.tell()
	return true
}

// Retire gives the connection back, whose use went well, but for nobody else to
// use: it is closed politely. That is for limits that the pool doesn't know, such
// as a number of uses, or one that the peer has announced. The reason is what
// Stat and Trace are told; one that isn't known counts as ReasonLifetime.
func (c Conn[T]) Retire(why Reason) {
	e := c.e
	if e == nil {
		return
	}
	if why >= reasonCount {
		why = ReasonLifetime
	}
	p := e.pool
	p.mu.Lock()
	if e.gen == c.gen && e.state == inUse {
		e.outdateLocked(why)
		if e.unproven {
			p.provenLocked(e)
		}
	}
	p.mu.Unlock()
	c.Release()
}

// outdateLocked has an entry serve nobody else.
func (e *entry[T]) outdateLocked(why Reason) {
	if !e.has(flagOutdated) {
		e.outdatedBy = why
		e.flags.Or(flagOutdated)
	}
}

// Fail gives the connection back together with the error that its use ended
// with, and lets the pool decide by the error's [health.Class]:
//
//   - nil: the same as Release.
//   - Conn, Path, Canceled, Local and any other error of I/O: the connection
//     is closed. After Path, where nobody will hear a goodbye, it is closed
//     hard, and so it is after Conn if it was the guard who has ended it. After
//     Path, and after Canceled if the peer was silent, the other connections
//     to the same address become suspects until their peers' kernels answer.
//   - Role: the connection is closed and the pool replaces all others, as
//     after [Pool.Reset], unless that has happened since this one was opened.
//   - Unknown, errors of the application: the connection is kept if no
//     unread byte waits on it.
func (c Conn[T]) Fail(err error) {
	if c.e == nil {
		return
	}
	if err == nil {
		c.Release()
		return
	}
	c.e.pool.release(c, err)
}

// release ends a checkout by the long way: with an error, or with hooks.
func (p *Pool[T]) release(c Conn[T], err error) {
	e := c.e
	keep := true
	var class health.Class
	reason := ReasonFailed
	if err != nil {
		class = p.classify(err)
		keep = class == health.Unknown && !isIO(err)
	}
	p.mu.Lock()
	if e.gen != c.gen || e.state != inUse {
		p.mu.Unlock()
		return
	}
	now := p.tickLocked()
	e.gen++ // from here on nobody else touches e
	if e.leak != nil {
		e.leak.n = 0
	}
	held := time.Duration(now - e.usedAt)
	p.mu.Unlock()

	if whole, severed := e.severed(class, err); severed {
		class, reason, err = health.Path, ReasonSilent, whole
	} else if !keep {
		e.doubt(class, err)
	}
	if keep && err != nil {
		if v := p.peek(e); !v.ok {
			keep, reason = false, v.reason
			err = errors.Join(err, v.err)
		}
	}
	if class == health.Role {
		p.reset(e.epoch, err)
	}
	var k wake[T]
	p.mu.Lock()
	switch {
	case e.state != inUse: // Close took it meanwhile
		p.mu.Unlock()
		keep = false
	case keep:
		keep = p.releaseSlow(e)
	default:
		e.abortive = class == health.Path
		p.retireLocked(e, reason, err)
		if e.useless(now) && (class == health.Conn || class == health.Path) && !errors.Is(err, health.ErrUnread) {
			p.failedLocked(fmt.Errorf("%w: %w", errUselessConn, err), now, &k)
		}
		p.mu.Unlock()
		k.tell()
		p.ledger.destroy(e)
	}
	if t := p.cfg.Trace; t != nil && t.ReleaseDone != nil {
		t.ReleaseDone(ReleaseDone{Held: held, Err: err, Kept: keep})
	}
}

// severed reports whether err, of that class, comes from the guard's ending of
// the connection, and returns it with the reason for that.
func (e *entry[T]) severed(class health.Class, err error) (error, bool) {
	if class != health.Conn && class != health.Path || e.watch == nil {
		return err, false
	}
	cause, ok := errors.AsType[*health.SilenceError](e.watch.Cause())
	if !ok {
		return err, false
	}
	if !errors.Is(err, cause) {
		err = severedError{cause, err}
	}
	return err, true
}

// doubt tells the guard, before the connection is closed, of an error of its
// use that may be about its siblings as well.
func (e *entry[T]) doubt(class health.Class, err error) {
	if e.watch != nil && (class == health.Path || class == health.Canceled) {
		e.watch.Doubt(err)
	}
}

// isIO reports whether err came from reading or writing, whatever its class:
// then nobody knows what of the exchange is still under way.
func isIO(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.ErrShortWrite) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed)
}

// Err returns nil while the connection may go on being used, and otherwise
// why it should be shared no further: the kernel's verdict or the guard's,
// ErrOutdated, ErrSuspect, or ErrClosed. It is for holders that share one
// connection among several uses; Release does the right thing in every case.
func (c Conn[T]) Err() error {
	e := c.e
	if e == nil {
		return ErrClosed
	}
	p := e.pool
	p.mu.Lock()
	p.tickLocked()
	ours := e.gen == c.gen && e.state == inUse
	why, unfit := p.unfitLocked(e)
	doubtful := e.has(flagSuspect)
	p.mu.Unlock()
	if !ours || unfit && why == ReasonShutdown {
		return ErrClosed
	}
	if e.watch != nil {
		if err := e.watch.Cause(); err != nil { // maybe before the guard's callback
			return err
		}
	}
	switch {
	case unfit && (why == ReasonDead || why == ReasonSilent):
		return io.EOF
	case unfit:
		return ErrOutdated
	case doubtful:
		return ErrSuspect
	}
	return nil
}

// Hijack takes the connection out of the pool: it is the caller's to close
// and counts against MaxConns no longer. Trace.ConnClosed is told so. It
// reports false, with the zero T, if the checkout has ended already.
func (c Conn[T]) Hijack() (T, bool) {
	var zero T
	e := c.e
	if e == nil {
		return zero, false
	}
	p := e.pool
	p.mu.Lock()
	if e.gen != c.gen || e.state != inUse {
		p.mu.Unlock()
		return zero, false
	}
	now := p.tickLocked()
	p.retireLocked(e, ReasonHijacked, nil)
	p.mu.Unlock()
	if e.watch != nil {
		e.watch.Stop()
	}
	p.ledger.hijack(e)
	p.gone(now)
	if t := p.cfg.Trace; t != nil {
		if t.ReleaseDone != nil {
			t.ReleaseDone(ReleaseDone{Held: time.Duration(now - e.usedAt)})
		}
		if t.ConnClosed != nil {
			t.ConnClosed(ConnClosed{Reason: ReasonHijacked, Age: time.Duration(now - e.born)})
		}
	}
	return e.value, true
}
