package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrClosed is returned by Acquire and Do once Close was called.
var ErrClosed = errors.New("pool: closed")

// ErrOutdated is what [Conn.Err] returns for a connection that works but is to
// be replaced: it is older than MaxConnLifetime, or from before a Reset.
var ErrOutdated = errors.New("pool: the connection is to be replaced")

// ErrSuspect is what [Conn.Err] returns for a connection whose peer has been
// asked and has not answered. It may still do so, upon which Err returns nil
// again.
var ErrSuspect = errors.New("pool: the peer of the connection does not answer")

// ErrTooManyWaiters is returned, inside an [AcquireError], when
// Config.MaxWaiters callers are waiting already.
var ErrTooManyWaiters = errors.New("too many callers are waiting")

// ErrOpenFails and ErrOpenPermanent are returned, inside an [AcquireError], when a
// wait ended early because opening fails while no connection is left: for a caller
// without a deadline after Config.DetectWithin, or for all with Config.FailFast;
// and in a way that no repetition can mend.
var (
	ErrOpenFails     = errors.New("opening fails and no connection is left")
	ErrOpenPermanent = errors.New("opening fails in a way that no repetition can mend")
)

// AcquireError says why a caller got no connection, and in which state the
// pool was. It unwraps to both Err and OpenErr, so that
// errors.Is(err, context.DeadlineExceeded) and, say,
// errors.Is(err, syscall.ECONNREFUSED) can hold at the same time.
type AcquireError struct {
	Err     error         // the context's error and cause, ErrTooManyWaiters, ErrOpenFails or ErrOpenPermanent
	OpenErr error         // the last failure to open, if none succeeded since
	Waited  time.Duration // how long the caller waited
	Stat    Stat          // the pool at that moment, this caller no longer counted
}

func (e *AcquireError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pool: no connection after %v: %v (%d of %d connections: %d in use, %d idle, %d suspect, %d opening, %d closing; %d callers waiting)",
		e.Waited.Round(time.Microsecond), e.Err, e.Stat.Total, e.Stat.MaxConns, e.Stat.InUse, e.Stat.Idle, e.Stat.Suspect, e.Stat.Opening, e.Stat.Closing, e.Stat.Waiting)
	switch {
	case e.OpenErr != nil:
		fmt.Fprintf(&b, "; opening fails, %d times in a row: %v", e.Stat.OpenFailures, e.OpenErr)
	case e.Stat.Opening > 0 && e.Stat.OldestOpen > 0:
		fmt.Fprintf(&b, "; the oldest open has been running for %v without an answer", e.Stat.OldestOpen.Round(time.Millisecond))
	case e.Stat.InUse >= e.Stat.MaxConns:
		b.WriteString("; all are held: release them sooner, or raise MaxConns")
	}
	return b.String()
}

// Unwrap returns Err and, if there is one, OpenErr.
func (e *AcquireError) Unwrap() []error {
	if e.OpenErr == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.OpenErr}
}

// Timeout reports whether the caller's context ended by its deadline.
func (e *AcquireError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// SafeToRetry reports true: no connection was had, so nothing was sent. It is
// what [health.SafeToRetry] asks for.
func (e *AcquireError) SafeToRetry() bool { return true }

// PanicError is what a panic in a function of Config becomes.
type PanicError struct {
	Func  string // "Open", "Ping", "Close", "NetConn" or "Classify"
	Value string // what was panicked with, formatted
	Stack string // the panicking goroutine's stack
	cause error
}

// Unwrap returns what was panicked with, if that was an error.
func (e *PanicError) Unwrap() error { return e.cause }

func (e *PanicError) Error() string {
	return fmt.Sprintf("pool: Config.%s panicked: %s\n%s", e.Func, e.Value, e.Stack)
}

// openTimeoutError is the error of an Open that the pool has ended.
type openTimeoutError struct{ err error }

func (e openTimeoutError) Error() string {
	if errors.Is(e.err, errOpenTimeout) {
		return e.err.Error() // the context's cause is in it already
	}
	return errOpenTimeout.Error() + ": " + e.err.Error()
}

func (e openTimeoutError) Unwrap() error { return e.err }

// PathTimeout tells [health.Classify] that it was no caller's own limit that
// ran out, but the pool's, while the peer was silent.
func (openTimeoutError) PathTimeout() bool { return true }

// slotError is why a suspect was closed that gave up its slot.
type slotError struct{ silent time.Duration }

func (e slotError) Error() string {
	return fmt.Sprintf("pool: the peer does not answer, it was last heard %v ago, and a caller needed the slot", e.silent.Round(time.Millisecond))
}

// PathTimeout tells [health.Classify] that the peer was silent.
func (slotError) PathTimeout() bool { return true }

// severedError is the error of a use that the guard has ended, and why it did.
type severedError struct{ cause, err error }

func (e severedError) Error() string   { return e.err.Error() + ": " + e.cause.Error() }
func (e severedError) Unwrap() []error { return []error{e.cause, e.err} }

var (
	errUselessConn  = errors.New("pool: a new connection failed at its first use")
	errOpenTimeout  = errors.New("pool: Open took longer than OpenTimeout")
	errPingTimeout  = errors.New("pool: Ping took longer than PingTimeout")
	errCloseTimeout = errors.New("pool: Close took longer than CloseTimeout")
	errGoexit       = errors.New("pool: the function ended its goroutine (runtime.Goexit)")
	errNoConn       = errors.New("pool: Open returned no connection and no error")
	errBornDead     = errors.New("pool: the connection was dead before its first use")
)
