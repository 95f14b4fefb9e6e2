package dial

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"syscall"
	"time"
)

// Config says how connections are opened and how fast a dead peer must be
// noticed on them. The zero value works.
type Config struct {
	// DetectWithin bounds how long a peer that vanished stays unnoticed: from
	// it KeepAlive, UserTimeout and Timeout are derived. Zero: 10 s, or what
	// KeepAlive or UserTimeout say if they are set. Less than 2 s is an error.
	// A fraction of a second is cut off in what is derived, since keep-alive
	// counts in whole seconds.
	//
	// The kernel's timers add up to an eighth, see [DetectionTime]. With
	// SlowReaders or a negative UserTimeout it holds for idle connections only:
	// with data in flight it is the kernel's own limit then, on Linux about
	// 924 s.
	DetectWithin time.Duration

	// KeepAlive overrides the derived keep-alive values; set Enable with them.
	// Parts that are zero keep the value derived from DetectWithin (or from
	// UserTimeout; without either 4s, 2s and 3). Idle + Interval·Count must be
	// no more than DetectWithin, if that is set. Whole seconds only, at most
	// 32767 s; Count at most 127.
	//
	// Enable false with a negative Idle turns keep-alive off: nothing notices
	// then that the peer of an idle connection is gone, so DetectWithin and
	// UserTimeout must be zero.
	KeepAlive net.KeepAliveConfig

	// UserTimeout overrides how long sent data may stay unacknowledged
	// (TCP_USER_TIMEOUT, on macOS TCP_RXT_CONNDROPTIME, on Windows TCP_MAXRT).
	// Zero: Idle + Interval·Count of keep-alive, and any other positive value
	// is an error unless SlowReaders is set. Negative: leave the kernel's own
	// limit, on Linux about 924 s, for connections with data in flight.
	//
	// It also bounds each attempt to connect.
	UserTimeout time.Duration

	// SlowReaders is for peers that are alive but may leave data unread for
	// longer than DetectWithin: consumers that pause, uploads to a slow disk.
	// The user timeout would kill such a connection, so none is set. Idle
	// connections are still found dead within DetectWithin. Connections with
	// data in flight are found dead only by the kernel's own limit, about 924 s
	// on Linux (net.ipv4.tcp_retries2), and a peer that lives but never reads
	// again is never given up: bound writes with deadlines.
	//
	// A positive UserTimeout is then a far backstop for both. Mind that Linux
	// ignores the keep-alive count beside it, so that an idle connection takes
	// as long to be found dead: it must be no less than Idle + Interval·Count,
	// and DetectWithin must be zero or no less than it.
	SlowReaders bool

	// Timeout bounds one dial: the lookup of the name, the attempts at all its
	// addresses, among which it is divided so that a dead first one leaves time
	// for the next, and in DialTLSContext the handshake. Zero: DetectWithin,
	// but at most 15 s, and 10 s where nothing says how fast deaths are
	// noticed. Negative is an error, as is a value that is not more than
	// FallbackDelay. A context's earlier deadline wins.
	Timeout time.Duration

	// FallbackDelay is how long the first address family has a head start
	// before the other one is tried beside it (Happy Eyeballs, RFC 6555). Zero:
	// 300 ms. Negative: never try both at once.
	FallbackDelay time.Duration

	// FastUnreachable reports ICMP "unreachable" messages on a connection with
	// data in flight at once (IP_RECVERR, Linux only), instead of when the
	// retries run out. Reads and writes then fail with EHOSTUNREACH or the
	// like, even if the route heals a second later. Idle connections gain
	// nothing: Linux ignores such answers to keep-alive probes.
	FastUnreachable bool

	// MultipathTCP asks for Multipath TCP (Linux only). Its sockets have no
	// user timeout, so that it needs SlowReaders or a negative UserTimeout, and
	// no FastUnreachable. When the last path has died, Linux waits another
	// minute for a new one (net.mptcp.close_timeout), and reads and writes then
	// fail with ENOTCONN. So nothing can be promised, and DetectWithin must be
	// zero; KeepAlive says when a path is dead. When false,
	// GODEBUG=multipathtcp can't turn it on.
	MultipathTCP bool

	// ReadBuffer is the size of the kernel's receive buffer in bytes
	// (SO_RCVBUF). Zero: the kernel tunes it, which is nearly always better.
	// Negative is an error. Linux doubles it and caps it at
	// net.core.rmem_max; Inspect shows the result.
	ReadBuffer int

	// WriteBuffer is the same for the send buffer (SO_SNDBUF,
	// net.core.wmem_max).
	WriteBuffer int

	// LocalAddr is the local address to dial from. Nil, or an address with a
	// zero Port, lets the kernel choose. Unix sockets ignore it.
	LocalAddr *net.TCPAddr

	// Resolver looks names up. Nil: net.DefaultResolver.
	Resolver *net.Resolver

	// TLSConfig is for DialTLSContext; New clones it. Nil: the zero tls.Config.
	// An empty ServerName is taken from the dialled address; if that has none,
	// as :443 or a Unix socket, it is an error, unless InsecureSkipVerify is set.
	TLSConfig *tls.Config

	// Control, if not nil, is called for every socket before it connects, after
	// the options of this Config are set: what it sets wins, but for keep-alive
	// on systems where only package net can set that. Listeners don't call it.
	Control func(ctx context.Context, network, address string, c syscall.RawConn) error

	// Trace, if not nil, is told what happens.
	Trace *Trace
}

const (
	defaultDetectWithin = 10 * time.Second
	minDetectWithin     = 2 * time.Second
	defaultFallback     = 300 * time.Millisecond // package net's
	maxDefaultTimeout   = 15 * time.Second       // four SYNs at least: after 0, 1, 3 and 7 s

	// What Linux takes: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT,
	// and milliseconds in an int for the user timeout.
	maxKeepAlive   = 32767 * time.Second
	maxCount       = 127
	maxUserTimeout = math.MaxInt32 * time.Millisecond

	// The largest value of which derive's parts fit the kernel.
	maxDetectWithin = 81913 * time.Second
)

// off reports whether keep-alive is turned off.
func (c *Config) off() bool { return !c.KeepAlive.Enable && c.KeepAlive.Idle < 0 }

// derives reports whether a part of keep-alive is to be derived.
func (c *Config) derives() bool {
	return c.KeepAlive.Idle == 0 || c.KeepAlive.Interval == 0 || c.KeepAlive.Count == 0
}

// complete returns c with every derived value filled in. A user timeout that is
// not to be set is negative in the result, keep-alive that is off stays so.
func (c Config) complete() (Config, error) {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dial: "+format, args...)) }

	c.checkDetection(add)
	if len(errs) == 0 {
		c.fillDetection(add)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultDetectWithin
		if c.DetectWithin > 0 {
			c.Timeout = min(c.DetectWithin, maxDefaultTimeout)
		}
	}
	if c.FallbackDelay == 0 {
		c.FallbackDelay = defaultFallback
	}
	c.checkRest(add)
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}
	return c.clone(), nil
}

// clone returns a copy that shares no memory that anybody might write to.
func (c Config) clone() Config {
	if c.TLSConfig != nil {
		c.TLSConfig = c.TLSConfig.Clone()
	}
	if a := c.LocalAddr; a != nil {
		c.LocalAddr = &net.TCPAddr{IP: slices.Clone(a.IP), Port: a.Port, Zone: a.Zone}
	}
	c.Trace = Join(c.Trace)
	return c
}

// checkDetection checks the fields that decide how fast a death is noticed, one
// by one.
func (c *Config) checkDetection(add func(string, ...any)) {
	switch d := c.DetectWithin; {
	case d < 0:
		add("Config.DetectWithin is %v: it must be zero, for 10s, or at least 2s", d)
	case d > 0 && d < minDetectWithin:
		add("Config.DetectWithin is %v: less than 2s can't be kept, because keep-alive counts in whole seconds; use 2s or more", d)
	case d > maxDetectWithin && c.derives():
		add("Config.DetectWithin is %v: the kernel's keep-alive holds no more than %v", d, maxDetectWithin)
	}

	ka := c.KeepAlive
	switch {
	case c.off():
		if ka.Interval > 0 || ka.Count > 0 {
			add("Config.KeepAlive is off (Idle is negative) but has an Interval of %v and a Count of %d: leave them zero", ka.Interval, ka.Count)
		}
		if c.DetectWithin > 0 {
			add("Config.DetectWithin is %v but Config.KeepAlive is off: nothing would notice the death of an idle connection; leave KeepAlive zero, or DetectWithin", c.DetectWithin)
		}
		if c.UserTimeout > 0 {
			add("Config.UserTimeout is %v but Config.KeepAlive is off: the kernel applies it to data in flight only, an idle connection would never be found dead; leave KeepAlive zero, or UserTimeout", c.UserTimeout)
		}
	case !ka.Enable && ka != net.KeepAliveConfig{}:
		add("Config.KeepAlive.Enable is false but other parts are set, which would be ignored: set Enable, or a negative Idle alone to turn keep-alive off")
	default:
		checkSeconds(add, "Config.KeepAlive.Idle", ka.Idle)
		checkSeconds(add, "Config.KeepAlive.Interval", ka.Interval)
		if ka.Count < 0 || ka.Count > maxCount {
			add("Config.KeepAlive.Count is %d: it must be 1 to %d, or zero for the derived value", ka.Count, maxCount)
		}
	}

	if ut := c.UserTimeout; ut > maxUserTimeout {
		add("Config.UserTimeout is %v: the kernel holds no more than %v", ut, maxUserTimeout)
	}
	if c.MultipathTCP && c.DetectWithin > 0 {
		add("Config.DetectWithin is %v but Config.MultipathTCP has Linux wait a minute (net.mptcp.close_timeout) for a new path when the last one has died, so that it can't be kept: leave DetectWithin zero and set KeepAlive if need be, or MultipathTCP to false", c.DetectWithin)
	}
}

func checkSeconds(add func(string, ...any), field string, d time.Duration) {
	switch {
	case d < 0:
		add("%s is %v: it must be positive, or zero for the derived value", field, d)
	case d > maxKeepAlive:
		add("%s is %v: the kernel holds no more than %v", field, d, maxKeepAlive)
	case d%time.Second != 0:
		add("%s is %v: the kernel counts in whole seconds; use %v", field, d, d.Truncate(time.Second)+time.Second)
	}
}

// fillDetection derives what is missing, and checks that all of it together
// does what it says.
func (c *Config) fillDetection(add func(string, ...any)) {
	if c.off() {
		c.KeepAlive = net.KeepAliveConfig{Idle: -1, Interval: -1, Count: -1}
		c.UserTimeout = -1
		return
	}
	if c.DetectWithin > 0 && c.UserTimeout > c.DetectWithin && !c.SlowReaders {
		add("Config.UserTimeout is %v but Config.DetectWithin is %v: set UserTimeout to no more than that, or zero", c.UserTimeout, c.DetectWithin)
		return
	}
	base := cmp.Or(c.DetectWithin, defaultDetectWithin)
	if c.UserTimeout > 0 && !c.SlowReaders {
		base = min(max(c.UserTimeout, minDetectWithin), maxDetectWithin)
	}
	derived := derive(base)
	derived.Enable = true
	if c.KeepAlive.Idle > 0 {
		derived.Idle = c.KeepAlive.Idle
	}
	if c.KeepAlive.Interval > 0 {
		derived.Interval = c.KeepAlive.Interval
	}
	if c.KeepAlive.Count > 0 {
		derived.Count = c.KeepAlive.Count
	}
	c.KeepAlive = derived
	total := derived.Idle + derived.Interval*time.Duration(derived.Count)
	sum := fmt.Sprintf("%s + %d × %s = %s", short(derived.Idle), derived.Count, short(derived.Interval), short(total))

	if c.DetectWithin > 0 && total > c.DetectWithin {
		add("Config.KeepAlive gives an idle connection up after %s but Config.DetectWithin is %v: set DetectWithin to %s, or zero, or make KeepAlive shorter", sum, c.DetectWithin, short(total))
		return
	}
	switch {
	case c.SlowReaders:
		c.fillBackstop(add, total, sum)
	case c.UserTimeout > 0 && c.UserTimeout != total:
		add("Config.UserTimeout is %v but Config.KeepAlive, in whole seconds, says %s, and the kernel ignores the count beside a user timeout: set UserTimeout to %s, or zero", c.UserTimeout, sum, short(total))
	case total > maxUserTimeout && c.UserTimeout >= 0:
		add("Config.KeepAlive says %s but Config.UserTimeout, which must say the same, holds no more than %v: make KeepAlive shorter", sum, maxUserTimeout)
	case c.UserTimeout == 0:
		c.UserTimeout = total
	}
	if c.DetectWithin == 0 && !c.MultipathTCP {
		c.DetectWithin, _ = DetectionTime(c.KeepAlive, c.UserTimeout)
	}
	if c.MultipathTCP && c.UserTimeout > 0 {
		add("Config.MultipathTCP and a Config.UserTimeout of %v exclude each other, because Linux has no user timeout for Multipath TCP: set UserTimeout to -1 and give writes deadlines, or MultipathTCP to false", c.UserTimeout)
	}
}

// fillBackstop is fillDetection's part for slow readers.
func (c *Config) fillBackstop(add func(string, ...any), total time.Duration, sum string) {
	if c.UserTimeout <= 0 {
		c.UserTimeout = -1
		return
	}
	if c.UserTimeout < total {
		add("Config.UserTimeout is %v with Config.SlowReaders, less than the %s of Config.KeepAlive: set UserTimeout to %s or more, or zero", c.UserTimeout, sum, short(total))
		return
	}
	if up := roundUp(c.UserTimeout, time.Millisecond); up != c.UserTimeout {
		add("Config.UserTimeout is %v: the kernel counts in milliseconds; use %v", c.UserTimeout, up)
	}
	if idle, _ := DetectionTime(c.KeepAlive, c.UserTimeout); c.DetectWithin > 0 && idle > c.DetectWithin {
		add("Config.UserTimeout is %v with Config.SlowReaders, and the kernel ignores the keep-alive count beside it: an idle connection would be found dead after %s but Config.DetectWithin is %v; set DetectWithin to %s, or UserTimeout to zero",
			c.UserTimeout, short(idle), c.DetectWithin, short(idle))
	}
}

// checkRest checks the fields that have nothing to do with detection.
func (c *Config) checkRest(add func(string, ...any)) {
	switch {
	case c.Timeout < 0:
		add("Config.Timeout is %v: it must be positive, or zero for the derived value", c.Timeout)
	case c.Timeout <= c.FallbackDelay:
		add("Config.Timeout is %v and Config.FallbackDelay is %v: the second address family would never be tried; set Timeout to more than %v, or FallbackDelay to less than %v",
			c.Timeout, c.FallbackDelay, c.FallbackDelay, c.Timeout)
	}
	if c.MultipathTCP && c.FastUnreachable {
		add("Config.MultipathTCP and Config.FastUnreachable exclude each other, because Linux has no such option for Multipath TCP: set one of them to false")
	}
	for _, b := range []struct {
		field string
		n     int
	}{{"ReadBuffer", c.ReadBuffer}, {"WriteBuffer", c.WriteBuffer}} {
		if b.n < 0 || b.n > math.MaxInt32/2 {
			add("Config.%s is %d: it must be 1 to %d bytes, or zero to let the kernel tune it", b.field, b.n, math.MaxInt32/2)
		}
	}
	if a := c.LocalAddr; a != nil {
		if n := len(a.IP); n != 0 && n != net.IPv4len && n != net.IPv6len {
			add("Config.LocalAddr.IP has %d bytes: an IP address has 4 or 16", n)
		}
		if a.Port < 0 || a.Port > math.MaxUint16 {
			add("Config.LocalAddr.Port is %d: it must be 1 to 65535, or zero to let the kernel choose", a.Port)
		}
	}
	if t := c.TLSConfig; t != nil && t.MinVersion != 0 && t.MaxVersion != 0 && t.MinVersion > t.MaxVersion {
		add("Config.TLSConfig has MinVersion %s above MaxVersion %s: no handshake can succeed",
			tls.VersionName(t.MinVersion), tls.VersionName(t.MaxVersion))
	}
}
