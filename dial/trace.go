package dial

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// Trace is told what a dialer does. Any hook may be nil, and a nil *Trace tells
// nothing and costs nothing. Hooks run on the dialling goroutines and hold them
// up, all but ConnState.
//
// Hooks may be called concurrently: two attempts to connect may race, and many
// dials may run at once. ConnectDone of the attempt that lost may come after
// DialDone.
type Trace struct {
	// DialStart is called before anything else. The context that it returns, if
	// not nil, is used for the rest of the dial and its hooks.
	DialStart func(ctx context.Context, s DialStart) context.Context

	// DialDone is called when the dial is over, with TLS after the handshake.
	DialDone func(ctx context.Context, d DialDone)

	// LookupStart is called before a name is looked up; an address that needs
	// no lookup has none.
	LookupStart func(ctx context.Context, s LookupStart)

	// LookupDone is called with the result of a lookup.
	LookupDone func(ctx context.Context, d LookupDone)

	// ConnectStart is called before an attempt to connect to one address.
	ConnectStart func(ctx context.Context, s ConnectStart)

	// ConnectDone is called when an attempt succeeded, failed or was given up.
	ConnectDone func(ctx context.Context, d ConnectDone)

	// HandshakeStart is called before a TLS handshake. The context that it
	// returns, if not nil, is used for the handshake and HandshakeDone.
	HandshakeStart func(ctx context.Context, s HandshakeStart) context.Context

	// HandshakeDone is called when a TLS handshake succeeded or failed.
	HandshakeDone func(ctx context.Context, d HandshakeDone)

	// ConnState is called when the guard changes its mind about a connection: it
	// became suspect, its peer was heard again, it is dead and why. It runs on
	// the goroutine of the guard that watches the connection and must not wait
	// for anything. Nothing is told with Unguarded, nor where the guard reports
	// events only, as with MultipathTCP and without keep-alive.
	ConnState func(health.StateChange)
}

// DialStart is what [Trace.DialStart] is told.
type DialStart struct {
	Network, Address string
	TLS              bool
}

// DialDone is what [Trace.DialDone] is told.
type DialDone struct {
	Network, Address string
	TLS              bool
	Conn             net.Conn // nil if Err is not
	Err              error
	Duration         time.Duration // of the whole dial

	// GuardErr is why the guard doesn't watch the connection, if it should but
	// can't: the kernel has no watches left, say. The dial succeeds all the same,
	// because the options that are set protect the connection, but with
	// SlowReaders only while it is idle.
	GuardErr error
}

// LookupStart is what [Trace.LookupStart] is told.
type LookupStart struct {
	Host string
}

// LookupDone is what [Trace.LookupDone] is told.
type LookupDone struct {
	Addrs []net.IPAddr
	Err   error
}

// ConnectStart is what [Trace.ConnectStart] is told.
type ConnectStart struct {
	Network, Address string // of one address: an IP and a port, or a path
}

// ConnectDone is what [Trace.ConnectDone] is told.
type ConnectDone struct {
	Network, Address string // as ConnectStart was told
	Err              error
}

// HandshakeStart is what [Trace.HandshakeStart] is told.
type HandshakeStart struct {
	ServerName string
}

// HandshakeDone is what [Trace.HandshakeDone] is told.
type HandshakeDone struct {
	State tls.ConnectionState // zero if Err is not nil
	Err   error
}

// Join returns a Trace that calls the hooks of all traces, in their order. Each
// start hook gets the context that the one before it returned. Nil traces are
// skipped; the traces themselves are not changed. The result is nil if no trace
// is left.
func Join(traces ...*Trace) *Trace {
	var all []*Trace
	for _, t := range traces {
		if t != nil {
			all = append(all, t)
		}
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		t := *all[0]
		return &t
	}
	return &Trace{
		DialStart:      joinStart(all, func(t *Trace) func(context.Context, DialStart) context.Context { return t.DialStart }),
		DialDone:       join(all, func(t *Trace) func(context.Context, DialDone) { return t.DialDone }),
		LookupStart:    join(all, func(t *Trace) func(context.Context, LookupStart) { return t.LookupStart }),
		LookupDone:     join(all, func(t *Trace) func(context.Context, LookupDone) { return t.LookupDone }),
		ConnectStart:   join(all, func(t *Trace) func(context.Context, ConnectStart) { return t.ConnectStart }),
		ConnectDone:    join(all, func(t *Trace) func(context.Context, ConnectDone) { return t.ConnectDone }),
		HandshakeStart: joinStart(all, func(t *Trace) func(context.Context, HandshakeStart) context.Context { return t.HandshakeStart }),
		HandshakeDone:  join(all, func(t *Trace) func(context.Context, HandshakeDone) { return t.HandshakeDone }),
		ConnState:      joinConnState(all),
	}
}

func joinConnState(all []*Trace) func(health.StateChange) {
	var hooks []func(health.StateChange)
	for _, t := range all {
		if t.ConnState != nil {
			hooks = append(hooks, t.ConnState)
		}
	}
	if len(hooks) == 0 {
		return nil
	}
	return func(s health.StateChange) {
		for _, h := range hooks {
			h(s)
		}
	}
}

// join is nil if no trace has the hook, so that a hook that nobody wants stays
// free.
func join[A any](all []*Trace, hook func(*Trace) func(context.Context, A)) func(context.Context, A) {
	var hooks []func(context.Context, A)
	for _, t := range all {
		if h := hook(t); h != nil {
			hooks = append(hooks, h)
		}
	}
	if len(hooks) == 0 {
		return nil
	}
	return func(ctx context.Context, a A) {
		for _, h := range hooks {
			h(ctx, a)
		}
	}
}

func joinStart[A any](all []*Trace, hook func(*Trace) func(context.Context, A) context.Context) func(context.Context, A) context.Context {
	var hooks []func(context.Context, A) context.Context
	for _, t := range all {
		if h := hook(t); h != nil {
			hooks = append(hooks, h)
		}
	}
	if len(hooks) == 0 {
		return nil
	}
	return func(ctx context.Context, a A) context.Context {
		for _, h := range hooks {
			ctx = start(ctx, h, a)
		}
		return ctx
	}
}

// start calls a start hook, if there is one, and returns the context to go on
// with.
func start[A any](ctx context.Context, hook func(context.Context, A) context.Context, a A) context.Context {
	if hook == nil {
		return ctx
	}
	if c := hook(ctx, a); c != nil {
		return c
	}
	return ctx
}

// observe returns a context through which package net tells the lookup and
// connect hooks.
func (t *Trace) observe(ctx context.Context) context.Context {
	if t == nil || t.LookupStart == nil && t.LookupDone == nil && t.ConnectStart == nil && t.ConnectDone == nil {
		return ctx
	}
	ct := new(httptrace.ClientTrace)
	if t.LookupStart != nil {
		ct.DNSStart = func(i httptrace.DNSStartInfo) { t.LookupStart(ctx, LookupStart{Host: i.Host}) }
	}
	if t.LookupDone != nil {
		ct.DNSDone = func(i httptrace.DNSDoneInfo) { t.LookupDone(ctx, LookupDone{Addrs: i.Addrs, Err: i.Err}) }
	}
	if t.ConnectStart != nil {
		ct.ConnectStart = func(network, address string) {
			t.ConnectStart(ctx, ConnectStart{Network: network, Address: address})
		}
	}
	if t.ConnectDone != nil {
		ct.ConnectDone = func(network, address string, err error) {
			t.ConnectDone(ctx, ConnectDone{Network: network, Address: address, Err: err})
		}
	}
	return httptrace.WithClientTrace(ctx, ct)
}
