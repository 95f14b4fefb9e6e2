package health

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// target finds what there is to watch below c.
func target(c net.Conn) (key connKey, raw syscall.RawConn, layered bool, err error) {
	inner, layered := sockopt.Unwrap(c)
	switch c := inner.(type) {
	case *net.TCPConn:
		key.tcp = weak.Make(c)
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		if a, ok := c.LocalAddr().(*net.UnixAddr); ok && a.Net == "unixgram" {
			return key, nil, layered, fmt.Errorf("health: can't watch a %s socket: %w", a.Net, errors.ErrUnsupported)
		}
		key.unix = weak.Make(c)
		raw, err = c.SyscallConn()
	default:
		err = fmt.Errorf("health: can't watch a %T: %w", inner, errors.ErrUnsupported)
	}
	return key, raw, layered, err
}

// footing is what a connection's policy needs to know of it.
type footing struct {
	policy *Policy // nil if it can't be had
	remote netip.AddrPort
	isNew  bool  // nothing but the handshake has passed over it
	began  int64 // when it was opened, at the earliest
	heard  int64
}

// footing asks whether w's connection is one that a policy can be applied to.
func (g *Guard) footing(w *Watch, key connKey, p *Policy) footing {
	c := key.tcp.Value()
	if c == nil {
		return footing{}
	}
	s := g.askers.Get().(*sockets)
	defer g.askers.Put(s)
	var info sockopt.Info
	addr, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok || s.askable(w, &info) != nil {
		return footing{}
	}
	ap := addr.AddrPort()
	heard := g.now() - int64(info.SincePeerHeard())
	return footing{
		policy: p,
		remote: netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()),
		isNew:  info.DataSegsIn == 0 && info.BytesAcked <= 1 && info.SincePeerHeard() < askable,
		began:  heard - int64(info.RTT+tick),
		heard:  heard,
	}
}

// enter begins to watch.
func (g *Guard) enter(key connKey, w *Watch, f footing) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.start(); err != nil {
		return err
	}
	g.entered++
	w.policed = f.policy != nil
	known := g.table.find(key) != entryID{}
	w.id = g.table.add(key, weak.Make(w))
	err := g.register(w)
	if err != nil {
		g.table.remove(w.id, weak.Make(w))
		return err
	}
	if f.policy == nil {
		return nil
	}
	w.known.Store(uint32(Alive))
	if first := g.table.watches(w.id, nil)[0]; first != w && first.policed {
		w.known.Store(first.known.Load())
	}
	g.table.police(w.id, f.policy, f.remote)
	if g.tighten(&f.policy.cfg) || g.table.policed == 1 {
		g.retune = true
		g.kickLocked()
	}
	if g.wary.Load() && f.isNew && !known {
		g.inbox.newcomers = append(g.inbox.newcomers, newcomer{w.id, f.began, f.heard})
		g.kickLocked()
	}
	return nil
}

// tighten reports whether sweeps must come more often under cfg than they do.
// The Guard is locked.
func (g *Guard) tighten(cfg *PolicyConfig) (tighter bool) {
	if d := cfg.DetectWithin; g.detect == 0 || d < g.detect {
		g.detect, tighter = d, true
	}
	if d := cfg.FreshFor; d > 0 && (g.fresh == 0 || d < g.fresh) {
		g.fresh, tighter = d, true
	}
	return tighter
}

// register arranges for w's connection to be looked at. The Guard is locked.
func (g *Guard) register(w *Watch) error {
	var opErr error
	err := w.raw.Control(func(fd uintptr) {
		if g.events != nil {
			opErr = g.events.add(fd, w.id)
		} else {
			_, opErr = sockopt.Poll(fd) // whether it can be asked at all
		}
	})
	if err != nil {
		return err
	}
	return opErr
}

// reregister is register for what was watched when the goroutine ended, which is
// nothing but closed connections, unless somebody watches them again. The Guard
// is locked.
func (g *Guard) reregister() {
	for i := range g.table.entries {
		if w := g.table.entries[i].first.Value(); w != nil {
			_ = g.register(w)
		}
	}
}

// unwatch forgets w.
func (g *Guard) unwatch(w *Watch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.table.remove(w.id, weak.Make(w))
	if w.policed && g.wary.Load() && !g.closed {
		if e := g.table.get(w.id); e == nil || e.policy == nil {
			g.inbox.stopped = append(g.inbox.stopped, w)
			g.kickLocked()
		}
	}
	if !last || g.events == nil || g.closed {
		return
	}
	// Under the lock, lest a new Watch of the same connection lose its events.
	// If the connection was closed, the kernel has done it.
	_ = w.raw.Control(func(fd uintptr) { g.events.remove(fd) })
}

// sweep clears the entry of a Watch that was garbage collected.
func (g *Guard) sweep(id entryID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table.sweep(id)
}
