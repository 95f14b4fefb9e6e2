package httpclient

import (
	"context"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

// Trace is told what a Client does. Any hook may be nil. Hooks are called without
// any lock held, from many goroutines; they should not block, must not panic, and
// must not wait for Client.Close.
type Trace struct {
	// OpenDone is called when a connection was opened, or that failed.
	OpenDone func(OpenDone)

	// ConnState is called when the guard changes its mind about a connection. It
	// is called on the guard's own goroutine, which must not wait for anything.
	ConnState func(Host, health.StateChange)

	// ConnClosed is called when a connection was taken out and closed.
	ConnClosed func(ConnClosed)

	// Retry is called, with the request's context, when it is to be sent again.
	Retry func(context.Context, Retry)

	// Moved is called when connections are given up because their address
	// isn't among the name's any more.
	Moved func(Moved)
}

// OpenDone is what [Trace.OpenDone] is told.
type OpenDone struct {
	Host Host
	Took time.Duration
	Err  error
}

// ConnClosed is what [Trace.ConnClosed] is told.
type ConnClosed struct {
	Host   Host
	Reason pool.Reason
	Err    error         // why, if it wasn't planned
	Class  health.Class  // of Err
	Age    time.Duration // since it was opened
}

// Retry is what [Trace.Retry] is told.
type Retry struct {
	Host    Host
	Attempt int   // the one that failed; the first is 1
	Err     error // of it
}

// Moved is what [Trace.Moved] is told.
type Moved struct {
	Host  Host
	Name  string // that was looked up
	Conns int    // how many are replaced, as soon as they are idle
}

// ofPool returns the hooks of a host's pool; nil if there are none.
func (t *Trace) ofPool(name Host) *pool.Trace {
	p := &pool.Trace{}
	if f := t.OpenDone; f != nil {
		p.OpenDone = func(_ context.Context, d pool.OpenDone) {
			f(OpenDone{Host: name, Took: d.Took, Err: d.Err})
		}
	}
	if f := t.ConnState; f != nil {
		p.ConnState = func(c health.StateChange) { f(name, c) }
	}
	if f := t.ConnClosed; f != nil {
		p.ConnClosed = func(c pool.ConnClosed) {
			f(ConnClosed{Host: name, Reason: c.Reason, Err: c.Err, Class: c.Class, Age: c.Age})
		}
	}
	if p.OpenDone == nil && p.ConnState == nil && p.ConnClosed == nil {
		return nil
	}
	return p
}
