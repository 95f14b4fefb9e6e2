package pool

import (
	"context"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// Trace is told what a pool does. Any hook may be nil. Hooks are called
// without any lock held, from many goroutines, and may call the pool; they
// should not block, since a caller or an open may be waiting behind them, must
// not panic, and must not wait for Pool.Close, which waits for them. A pool
// without a Trace pays nothing for it.
type Trace struct {
	// AcquireDone is called when Acquire or Do got a connection or gave up,
	// with the caller's context.
	AcquireDone func(context.Context, AcquireDone)

	// ReleaseDone is called when a connection came back, by whatever way.
	ReleaseDone func(ReleaseDone)

	// OpenStart is called before Open, on the same goroutine. What it returns
	// becomes Open's context; it must derive from the one it was given.
	OpenStart func(context.Context) context.Context

	// OpenDone is called after Open, with OpenStart's context.
	OpenDone func(context.Context, OpenDone)

	// PingDone is called after Ping.
	PingDone func(context.Context, PingDone)

	// ConnState is called when the guard changes its mind about a connection:
	// Alive, Quiet, Suspect, SlowReader, Dead. It is called on the guard's own
	// goroutine, which must not wait for anything.
	ConnState func(health.StateChange)

	// ConnClosed is called when a connection was taken out of the pool and
	// its close has ended, or it was hijacked.
	ConnClosed func(ConnClosed)

	// ConnLeaked is called once for a checkout that has lasted longer than
	// Config.LeakTimeout.
	ConnLeaked func(ConnLeaked)

	// Reset is called when all connections were declared outdated: by
	// Pool.Reset (err is nil), or by an error of class Role.
	Reset func(err error)
}

// AcquireDone is what [Trace.AcquireDone] is told.
type AcquireDone struct {
	Wait   time.Duration // from the call to its end
	Waited bool          // it was queued, as no idle connection was left
	Err    error         // why none was had; nil otherwise
}

// ReleaseDone is what [Trace.ReleaseDone] is told.
type ReleaseDone struct {
	Held time.Duration // since the checkout
	Err  error         // what the holder gave to Fail, or Do's function returned, and what the pool found
	Kept bool          // whether the connection went back to the pool
}

// OpenDone is what [Trace.OpenDone] is told.
type OpenDone struct {
	Took time.Duration
	Err  error
}

// PingDone is what [Trace.PingDone] is told.
type PingDone struct {
	Took time.Duration
	Err  error
}

// ConnClosed is what [Trace.ConnClosed] is told.
type ConnClosed struct {
	Reason   Reason
	Err      error         // the kernel's, the holder's or the ping's error, if there is one
	Class    health.Class  // of Err
	Age      time.Duration // since it was opened
	CloseErr error         // what Close returned
}

// ConnLeaked is what [Trace.ConnLeaked] is told.
type ConnLeaked struct {
	Held  time.Duration // so far
	Stack string        // of the Acquire, a frame in two lines like runtime/debug.Stack
}

// Join returns a Trace that calls the hooks of all traces in turn, skipping
// nil ones. The contexts that OpenStart returns are chained. Later changes to
// the given traces have no effect.
func Join(traces ...*Trace) *Trace {
	var j Trace
	for _, t := range traces {
		if t == nil {
			continue
		}
		j.AcquireDone = both2(j.AcquireDone, t.AcquireDone)
		j.ReleaseDone = both(j.ReleaseDone, t.ReleaseDone)
		j.OpenStart = chain(j.OpenStart, t.OpenStart)
		j.OpenDone = both2(j.OpenDone, t.OpenDone)
		j.PingDone = both2(j.PingDone, t.PingDone)
		j.ConnState = both(j.ConnState, t.ConnState)
		j.ConnClosed = both(j.ConnClosed, t.ConnClosed)
		j.ConnLeaked = both(j.ConnLeaked, t.ConnLeaked)
		j.Reset = both(j.Reset, t.Reset)
	}
	return &j
}

func both[A any](f, g func(A)) func(A) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A) { f(a); g(a) }
}

func both2[A, B any](f, g func(A, B)) func(A, B) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A, b B) { f(a, b); g(a, b) }
}

func chain(f, g func(context.Context) context.Context) func(context.Context) context.Context {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(ctx context.Context) context.Context { return g(f(ctx)) }
}
