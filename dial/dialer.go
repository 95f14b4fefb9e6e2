package dial

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// Dialer opens connections with the options of its Config. It holds no
// resources, and its methods may be called concurrently.
type Dialer struct {
	cfg Config     // complete
	net net.Dialer // never changed
}

// New checks cfg, all of it at once, and returns a Dialer for it. It does no
// I/O. What the kernel lacks is not an error, see [Inspect].
func New(cfg Config) (*Dialer, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	d := &Dialer{cfg: cfg}
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
	return d, nil
}

// Config returns a copy of the dialer's configuration with every derived value
// filled in. A UserTimeout that is not set is negative in it.
func (d *Dialer) Config() Config { return d.cfg.clone() }

// DialContext connects to an address. Networks are tcp, tcp4, tcp6, unix and
// unixpacket; an address is host:port, or a path. Names with addresses of both
// families are dialled as RFC 6555 says. The result is a bare *net.TCPConn or
// *net.UnixConn. Unix sockets get no options: their peers can't vanish.
//
// Errors are of type *[Error].
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	begin := time.Now()
	ctx = d.begin(ctx, network, address, false)
	c, err := d.connect(ctx, network, address)
	if err != nil {
		c = nil
	}
	d.done(ctx, begin, DialDone{Network: network, Address: address, Conn: c, Err: err})
	return c, err
}

// DialTLSContext is DialContext followed by a TLS handshake with
// Config.TLSConfig. Options are set before the first byte is sent. The result
// is a bare *tls.Conn whose handshake is complete. For HTTP/2 in net/http, put
// "h2" and "http/1.1" into TLSConfig.NextProtos.
func (d *Dialer) DialTLSContext(ctx context.Context, network, address string) (net.Conn, error) {
	begin := time.Now()
	ctx = d.begin(ctx, network, address, true)
	c, err := d.connectTLS(ctx, begin, network, address)
	done := DialDone{Network: network, Address: address, TLS: true, Err: err}
	if err == nil {
		done.Conn = c
	}
	d.done(ctx, begin, done)
	return done.Conn, err
}

func (d *Dialer) begin(ctx context.Context, network, address string, tls bool) context.Context {
	t := d.cfg.Trace
	if t == nil {
		return ctx
	}
	return start(ctx, t.DialStart, DialStart{Network: network, Address: address, TLS: tls})
}

func (d *Dialer) done(ctx context.Context, begin time.Time, done DialDone) {
	if t := d.cfg.Trace; t != nil && t.DialDone != nil {
		done.Duration = time.Since(begin)
		t.DialDone(ctx, done)
	}
}

func (d *Dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	if err := checkAddress(network, address); err != nil {
		return nil, err
	}
	dialer := &d.net
	if isUnix(network) && d.net.LocalAddr != nil {
		local := d.net
		local.LocalAddr = nil
		dialer = &local
	}
	c, err := dialer.DialContext(d.cfg.Trace.observe(ctx), network, address)
	if err != nil {
		return nil, d.failed(ctx, PhaseConnect, network, address, err)
	}
	return c, nil
}

func (d *Dialer) connectTLS(ctx context.Context, begin time.Time, network, address string) (*tls.Conn, error) {
	cfg, err := d.tlsConfig(network, address)
	if err != nil {
		return nil, err
	}
	raw, err := d.connect(ctx, network, address)
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
		return nil, d.failed(ctx, PhaseHandshake, network, address, err)
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
// does.
//
// On Linux accepted sockets inherit what is set on the listener's. Elsewhere
// package net sets keep-alive on each one and the rest is the system's to
// inherit.
func (d *Dialer) ListenConfig() *net.ListenConfig {
	lc := &net.ListenConfig{
		Control: func(network, _ string, c syscall.RawConn) error { return d.cfg.control(network, c) },
		// Package net would reset every accepted connection's keep-alive.
		KeepAlive: -1,
	}
	if !sockopt.AcceptInherits {
		lc.KeepAliveConfig = d.cfg.KeepAlive
	}
	lc.SetMultipathTCP(d.cfg.MultipathTCP)
	return lc
}

func isUnix(network string) bool { return strings.HasPrefix(network, "unix") }
