package dial

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// Dialer opens connections with the options of its Config, and has them watched
// by a guard. All that it holds is that guard's goroutine, see Config.Guard;
// Close ends it. Its methods may be called concurrently.
type Dialer struct {
	cfg        Config           // complete
	net        net.Dialer       // never changed
	setRTOMax  func(fd uintptr) // made once, so that a dial needn't
	setGuarded func(fd uintptr) // the same
	inTheEnd   time.Duration    // see UserTimeout

	guard  *health.Guard   // nil if unguarded
	own    *health.Guard   // the same, if New made it
	policy *health.Policy  // nil: the guard reports events only
	canary health.DialFunc // the policy's Dial
	closed atomic.Bool
}

// New checks cfg, all of it at once, and returns a Dialer for it. It does no
// I/O and starts nothing. What the kernel lacks is not an error, see [Inspect].
func New(cfg Config) (*Dialer, error) {
	derived := cfg.UserTimeout == 0
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	d := &Dialer{cfg: cfg, inTheEnd: cfg.UserTimeout}
	if derived && cfg.UserTimeout > 0 && cfg.guarded() {
		d.inTheEnd = min(backstopFactor*cfg.DetectWithin.Truncate(time.Millisecond), maxUserTimeout)
	}
	d.net = net.Dialer{
		Timeout:       cfg.Timeout,
		FallbackDelay: cfg.FallbackDelay,
		Resolver:      cfg.Resolver,
		// Package net would overwrite our keep-alive, and ignore its errors.
		KeepAlive:      -1,
		ControlContext: d.cfg.controlContext,
	}
	if !sockopt.SetsKeepAlive() {
		d.net.KeepAliveConfig = cfg.KeepAlive
	}
	if cfg.LocalAddr != nil {
		d.net.LocalAddr = cfg.LocalAddr
	}
	d.net.SetMultipathTCP(cfg.MultipathTCP)
	d.setRTOMax = func(fd uintptr) { _ = sockopt.SetRTOMax(fd, cfg.RTOMax) }
	d.setGuarded = d.relax
	if err := d.makeGuard(); err != nil {
		return nil, err
	}
	return d, nil
}

// Config returns a copy of the dialer's configuration with every derived value
// filled in. What is not set is negative in it. Guard is the one that was given.
func (d *Dialer) Config() Config { return d.cfg.clone() }

// UserTimeout returns the user timeout that a TCP connection has once it is
// dialled: three times DetectWithin if it was derived and the guard judges
// connections, else Config().UserTimeout. Negative: none is set. Whoever sets the
// option again on the dialer's connections, as gRPC does, should set this value.
//
// Other than that have connections that no guard can judge, because DialDone has
// a GuardErr or the system isn't Linux: they keep Config().UserTimeout; and those
// whose user timeout Config.Control has set.
func (d *Dialer) UserTimeout() time.Duration { return d.inTheEnd }

// DialContext connects to an address. Networks are tcp, tcp4, tcp6, unix and
// unixpacket; an address is host:port, or a path. Names with addresses of both
// families are dialled as RFC 6555 says. The result is a bare *net.TCPConn or
// *net.UnixConn. Unix sockets get no options and are not watched: their peers
// can't vanish.
//
// The connection is watched by the guard of ctx, if it has one
// ([health.ContextWithGuard]), else by the dialer's. If that can't be done,
// because the system has no means left, it is the kernel's options that protect
// the connection, and DialDone says so.
//
// Errors are of type *[Error].
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	begin := time.Now()
	done := DialDone{Network: network, Address: address}
	ctx = d.begin(ctx, &done)
	done.Conn, done.Err = d.connect(ctx, &done)
	d.done(ctx, begin, &done)
	return done.Conn, done.Err
}

// DialTLSContext is DialContext followed by a TLS handshake with
// Config.TLSConfig. Options are set before the first byte is sent, and the guard
// watches from then on. The result
// is a bare *tls.Conn whose handshake is complete. For HTTP/2 in net/http, put
// "h2" and "http/1.1" into TLSConfig.NextProtos.
func (d *Dialer) DialTLSContext(ctx context.Context, network, address string) (net.Conn, error) {
	begin := time.Now()
	done := DialDone{Network: network, Address: address, TLS: true}
	ctx = d.begin(ctx, &done)
	c, err := d.connectTLS(ctx, begin, &done)
	if done.Err = err; err == nil {
		done.Conn = c
	}
	d.done(ctx, begin, &done)
	return done.Conn, err
}

func (d *Dialer) begin(ctx context.Context, done *DialDone) context.Context {
	t := d.cfg.Trace
	if t == nil {
		return ctx
	}
	return start(ctx, t.DialStart, DialStart{Network: done.Network, Address: done.Address, TLS: done.TLS})
}

func (d *Dialer) done(ctx context.Context, begin time.Time, done *DialDone) {
	if t := d.cfg.Trace; t != nil && t.DialDone != nil {
		done.Duration = time.Since(begin)
		t.DialDone(ctx, *done)
	}
}

// connect connects as done says, and has it watched.
func (d *Dialer) connect(ctx context.Context, done *DialDone) (net.Conn, error) {
	if d.closed.Load() {
		return nil, &Error{Phase: PhaseWatch, Network: done.Network, Address: done.Address, Err: closedError{}}
	}
	if err := checkAddress(done.Network, done.Address); err != nil {
		return nil, err
	}
	dialer := &d.net
	if isUnix(done.Network) && d.net.LocalAddr != nil {
		local := d.net
		local.LocalAddr = nil
		dialer = &local
	}
	c, err := dialer.DialContext(d.cfg.Trace.observe(ctx), done.Network, done.Address)
	if err != nil {
		return nil, d.failed(ctx, PhaseConnect, done.Network, done.Address, err)
	}
	if err := d.watch(ctx, c, done); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (d *Dialer) connectTLS(ctx context.Context, begin time.Time, done *DialDone) (*tls.Conn, error) {
	cfg, err := d.tlsConfig(done.Network, done.Address)
	if err != nil {
		return nil, err
	}
	raw, err := d.connect(ctx, done)
	if err != nil {
		return nil, err
	}
	t := d.cfg.Trace
	if t != nil {
		ctx = start(ctx, t.HandshakeStart, HandshakeStart{ServerName: cfg.ServerName})
	}
	c := tls.Client(raw, cfg)
	err = d.handshake(ctx, begin, c)
	if t != nil && t.HandshakeDone != nil {
		done := HandshakeDone{Err: err}
		if err == nil {
			done.State = c.ConnectionState()
		}
		t.HandshakeDone(ctx, done)
	}
	if err != nil {
		raw.Close()
		return nil, d.failed(ctx, PhaseHandshake, done.Network, done.Address, d.explain(ctx, raw, err))
	}
	return c, nil
}

// handshake does c's handshake in what is left of the time-out.
func (d *Dialer) handshake(ctx context.Context, begin time.Time, c *tls.Conn) error {
	ctx, cancel := context.WithDeadline(ctx, begin.Add(d.cfg.Timeout))
	defer cancel()
	return c.HandshakeContext(ctx)
}

// tlsConfig returns the configuration of one handshake.
func (d *Dialer) tlsConfig(network, address string) (*tls.Config, error) {
	if err := checkAddress(network, address); err != nil {
		return nil, err
	}
	cfg := d.cfg.TLSConfig
	if cfg == nil {
		cfg = new(tls.Config)
	}
	if cfg.ServerName != "" {
		return cfg, nil
	}
	var host string
	if !isUnix(network) {
		host, _, _ = net.SplitHostPort(address) // checkAddress could
	}
	if host == "" {
		if cfg.InsecureSkipVerify {
			return cfg, nil
		}
		return nil, &Error{
			Phase: PhaseAddress, Network: network, Address: address,
			Err:    &net.AddrError{Err: "no name to verify the certificate against", Addr: address},
			Advice: "set Config.TLSConfig.ServerName",
		}
	}
	cfg = cfg.Clone()
	cfg.ServerName = host
	return cfg, nil
}

// ListenConfig returns a net.ListenConfig whose listeners accept connections
// with the dialer's options, so that a server notices that its clients vanished
// as fast. The listener is a bare *net.TCPListener; hand it to http.Serve and
// the like. Options, buffers and MultipathTCP of the Config apply, nothing else
// does: no guard watches accepted connections, so that with SlowReaders those
// with data in flight have the kernel's own limit.
//
// On Linux accepted sockets inherit what is set on the listener's. Elsewhere
// package net sets keep-alive on each one and the rest is the system's to
// inherit.
func (d *Dialer) ListenConfig() *net.ListenConfig {
	lc := &net.ListenConfig{
		Control: d.controlListener,
		// Package net would reset every accepted connection's keep-alive.
		KeepAlive: -1,
	}
	if !sockopt.AcceptInherits {
		lc.KeepAliveConfig = d.cfg.KeepAlive
	}
	lc.SetMultipathTCP(d.cfg.MultipathTCP)
	return lc
}

// controlListener sets what accepted connections are to inherit.
func (d *Dialer) controlListener(network, _ string, rc syscall.RawConn) error {
	if err := d.cfg.control(network, rc); err != nil {
		return err
	}
	if d.cfg.RTOMax > 0 && d.cfg.UserTimeout > 0 && strings.HasPrefix(network, "tcp") {
		return rc.Control(d.setRTOMax)
	}
	return nil
}

func isUnix(network string) bool { return strings.HasPrefix(network, "unix") }
