package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// makeGuard makes what the dialer needs to have its connections watched.
func (d *Dialer) makeGuard() error {
	if d.cfg.Unguarded {
		return nil
	}
	d.canary = d.dialHalfOpen
	if d.cfg.guarded() {
		p := health.PolicyConfig{
			DetectWithin: d.cfg.DetectWithin,
			FreshFor:     d.cfg.FreshFor,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				return d.canary(ctx, network, address)
			},
		}
		if t := d.cfg.Trace; t != nil {
			p.StateChanged = t.ConnState
		}
		var err error
		if d.policy, err = health.NewPolicy(p); err != nil {
			return err
		}
	}
	d.guard = d.cfg.Guard
	if d.guard != nil {
		return nil
	}
	var err error
	d.own, err = health.NewGuard(health.GuardConfig{})
	d.guard = d.own
	return err
}

// Guard returns the guard that watches the connections of dials without one in
// their context: Config.Guard or the one that New made; nil if Unguarded. Share
// it with a pool or another dialer, or ask it about a connection.
func (d *Dialer) Guard() *health.Guard { return d.guard }

// Close ends the guard that New made and waits until its goroutine has ended:
// don't call it from a hook. A guard that was given is left alone. Close may be
// called more than once, and always returns nil.
//
// Connections go on without the guard, on the kernel's options alone. Dials fail
// from now on, with an error for which errors.Is(err, [health.ErrGuardClosed])
// holds.
func (d *Dialer) Close() error {
	d.closed.Store(true)
	if d.own == nil {
		return nil
	}
	return d.own.Close()
}

// closedError is why a dialer that was closed doesn't dial.
type closedError struct{}

func (closedError) Error() string { return "the dialer is closed" }
func (closedError) Unwrap() error { return health.ErrGuardClosed }

// watch has a guard watch a connection and sets what is only good under its
// eyes. Done learns why that was not possible. The error is that of a dial that
// must fail.
func (d *Dialer) watch(ctx context.Context, c net.Conn, done *DialDone) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	judged := false
	if g := d.guardFor(ctx); g != nil {
		var w *health.Watch
		w, done.GuardErr = g.Watch(c, d.policy, nil)
		judged = w != nil && w.State() != health.Unwatched
	}
	set := d.setRTOMax
	switch err := done.GuardErr; {
	case errors.Is(err, health.ErrGuardClosed):
		done.GuardErr = nil
		e := &Error{Phase: PhaseWatch, Network: done.Network, Address: done.Address, Err: err}
		if d.closed.Load() {
			e.Err = closedError{}
		} else {
			e.Advice = "a guard must be closed after the dialers and pools that use it"
		}
		return e
	case judged && d.inTheEnd > d.cfg.UserTimeout:
		set = d.setGuarded
	case d.cfg.RTOMax <= 0, err != nil && d.cfg.UserTimeout <= 0:
		return nil // the latter would be given up after few retransmissions
	}
	// Not before connecting, where it would cost SYNs: Linux gives up after 10.
	if rc, err := tcp.SyscallConn(); err == nil {
		_ = rc.Control(set) // what a kernel or a sandbox doesn't have isn't missed
	}
	return nil
}

// backstopFactor is how many times DetectWithin the kernel waits where the guard
// judges. Linux counts the user timeout from the beginning of a loss's recovery,
// and would end living connections on a congested path.
const backstopFactor = 3

// relax sets what is good under a guard's eyes only, but leaves a user timeout
// alone that Config.Control has set.
func (d *Dialer) relax(fd uintptr) {
	if d.cfg.RTOMax > 0 {
		d.setRTOMax(fd)
	}
	if now, err := sockopt.UserTimeout(fd); err == nil && now == d.cfg.UserTimeout.Truncate(time.Millisecond) {
		_ = sockopt.SetUserTimeout(fd, d.inTheEnd)
	}
}

// guardFor returns the guard of a dial, or nil.
func (d *Dialer) guardFor(ctx context.Context) *health.Guard {
	if d.guard == nil {
		return nil
	}
	if g := health.GuardFromContext(ctx); g != nil {
		return g
	}
	return d.guard
}

// explain adds to an error of a handshake that the guard ended the connection,
// if it was so: the reset that the handshake saw was not the peer's.
func (d *Dialer) explain(ctx context.Context, raw net.Conn, err error) error {
	g := d.guardFor(ctx)
	if g == nil {
		return err
	}
	if silence, ok := errors.AsType[*health.SilenceError](g.Cause(raw)); ok {
		return fmt.Errorf("%w: %w", err, silence)
	}
	return err
}

// dialHalfOpen connects to an address as far as the peer's kernel goes: its
// program doesn't see the connection if it is closed at once.
func (d *Dialer) dialHalfOpen(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAlive:      -1,
		ControlContext: d.controlHalfOpen,
	}
	if a := d.cfg.LocalAddr; a != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: a.IP, Zone: a.Zone} // the port is taken
	}
	dialer.SetMultipathTCP(false)
	return dialer.DialContext(ctx, network, address)
}

func (d *Dialer) controlHalfOpen(ctx context.Context, network, address string, rc syscall.RawConn) error {
	if d.cfg.Control != nil {
		if err := d.cfg.Control(ctx, network, address, rc); err != nil {
			return err
		}
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = sockopt.HalfOpen(fd) }); err != nil {
		return err
	}
	if opErr != nil && !errors.Is(opErr, errors.ErrUnsupported) {
		return opErr
	}
	return nil
}
