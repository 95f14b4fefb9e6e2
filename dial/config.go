package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// Config says how connections are opened and how fast a dead peer must be
// noticed on them. The zero value works.
type Config struct {
	// DetectWithin bounds how long a peer that vanished stays unnoticed: from
	// it KeepAlive, UserTimeout, FreshFor and Timeout are derived. Zero: 10 s,
	// or what KeepAlive or UserTimeout say if they are set. Less than 2 s is an
	// error. A fraction of a second is cut off in what is derived for the
	// kernel, since keep-alive counts in whole seconds.
	//
	// It holds for idle connections and for those with data in flight. Where no
	// user timeout bounds the latter, with SlowReaders or a negative
	// UserTimeout, the guard does; and where there is no guard either, with
	// Unguarded and elsewhere than on Linux, only the kernel's own limit, on
	// Linux about 924 s.
	//
	// The guard adds up to 0.8 s on an idle connection, and up to a second on
	// one with data in flight. Without it the kernel's timers add up to an
	// eighth, and one retransmission, see [DetectionTime].
	//
	// A peer that doesn't hear us, but is heard since it repeats what it has sent,
	// hasn't vanished yet: the time runs from its last repetition. The user
	// timeout bounds that for data in flight.
	DetectWithin time.Duration

	// KeepAlive overrides the derived keep-alive values; set Enable with them.
	// Parts that are zero keep the value derived from DetectWithin (or from
	// UserTimeout; without either 4s, 2s and 3). Idle + Interval·Count must be
	// no more than DetectWithin, if that is set. Whole seconds only, at most
	// 32767 s; Count at most 127.
	//
	// Enable false with a negative Idle turns keep-alive off: nothing notices
	// then that the peer of an idle connection is gone, so DetectWithin and
	// UserTimeout must be zero. The guard, too, asks nobody and only reports
	// what the kernel finds.
	KeepAlive net.KeepAliveConfig

	// UserTimeout overrides how long sent data may stay unacknowledged
	// (TCP_USER_TIMEOUT, on macOS TCP_RXT_CONNDROPTIME, on Windows TCP_MAXRT).
	// Zero: Idle + Interval·Count of keep-alive, and any other positive value
	// is an error unless SlowReaders is set. Negative: none is set, as with
	// SlowReaders; what bounds connections with data in flight is then the
	// guard, or without one the kernel's own limit, on Linux about 924 s.
	//
	// It also bounds each attempt to connect. If it was zero, and a guard judges
	// the connection (on Linux, unless Unguarded), it is then raised to three
	// times DetectWithin, unless Control has set another: the guard keeps
	// DetectWithin, and the kernel, which counts from the beginning of a loss's
	// recovery and not from the peer's last word, would end living connections
	// on a congested path. That is also for how long a live peer may leave data
	// unread, and what remains of a guard that was closed.
	UserTimeout time.Duration

	// SlowReaders is for peers that are alive but may leave data unread for
	// longer than UserTimeout: consumers that pause, uploads to a slow disk.
	// The user timeout would kill such a connection, so none is set, and the
	// guard, which sees whether the peer's kernel answers, takes its place: a
	// live peer may pause for hours, a dead one is noticed within DetectWithin,
	// idle or not. A peer that lives but never reads again is never given up:
	// bound writes with deadlines.
	//
	// Behind a closed window Linux asks the peer ever more seldom, at most
	// RTOMax apart. Before Linux 6.15, which has no such limit, that comes to 2
	// minutes, and its death is noticed that much later.
	//
	// Without a guard (Unguarded, or elsewhere than on Linux) idle connections
	// are still found dead within DetectWithin, but those with data in flight
	// only by the kernel's own limit, about 924 s on Linux
	// (net.ipv4.tcp_retries2).
	//
	// A positive UserTimeout beside SlowReaders is a far backstop, no less than
	// Idle + Interval·Count, and with a guard it has no say in DetectWithin.
	// Without one, mind that Linux ignores the keep-alive count beside it, so
	// that an idle connection takes as long to be found dead, and DetectWithin
	// must be zero or no less than it.
	SlowReaders bool

	// Guard watches the connections: it finds those whose peer is silent before
	// they are used, and ends those that are dead; see the package's overview.
	// Give one to share it among dialers and pools. Nil: New makes one. Its
	// goroutine runs while there are connections, with MultipathTCP or without
	// keep-alive until Close. A guard in the context of a dial
	// ([health.ContextWithGuard]), as a pool's Open has it, goes before both; so
	// dial with the context that Open is given, lest two guards ask and judge
	// the same connection.
	//
	// It opens connections of its own, see Control, on goroutines of its own.
	// If dialing from these doesn't lead to the same network, because the
	// program keeps threads in several network namespaces, give a guard whose
	// GuardConfig.Dial does.
	Guard *health.Guard

	// Unguarded switches the dialer's guard off. What remains is what the kernel
	// does with KeepAlive and UserTimeout, unless somebody else watches the
	// connection, as a pool does with its own. It excludes Guard and a positive FreshFor.
	Unguarded bool

	// FreshFor is how long after its peer was heard a connection counts as alive
	// without being asked, see [health.PolicyConfig]. Zero: half of
	// DetectWithin, but at least 1 s. Less than 1 s is an error, as is more than
	// DetectWithin. Negative: nothing is sent for the sake of freshness, which
	// spares batteries; keep-alive still is.
	//
	// A shorter one finds a lost flow sooner, and costs packets if it is shorter
	// than KeepAlive's Idle.
	FreshFor time.Duration

	// RTOMax bounds the time between two retransmissions to a silent peer
	// (TCP_RTO_MAX_MS, Linux 6.15; skipped elsewhere). It is why a connection
	// goes on within a second after an outage instead of after TCP's backoff,
	// which takes half a minute more after one of a minute. It costs up to a
	// packet per RTOMax and connection with data in flight while the outage
	// lasts. It must be longer than round trips ever get, or packets that were
	// not lost are sent again: raise it on slow links.
	//
	// Zero: 1 s beside a user timeout; where only the guard bounds how long data
	// may stay unacknowledged, a twelfth of DetectWithin if that is more, since
	// Linux gives a peer with a closed window up after 15 questions; and else the
	// kernel's own. Negative: the kernel's own, 120 s. Otherwise it is 1 to 120 s,
	// and an error if nothing but the kernel's limit bounds that time: 15
	// retransmissions, about 15·RTOMax then.
	RTOMax time.Duration

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
	// zero; KeepAlive says when a path is dead. The guard only reports their end
	// and there is no RTOMax. When false, GODEBUG=multipathtcp can't turn it on.
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
	// the options of this Config are set: what it sets wins, but for RTOMax,
	// which is set after connecting, and keep-alive on systems where only package
	// net can set that. It is also called for the connections that the guard
	// opens and aborts to learn whether a silent peer's address still answers.
	// Listeners don't call it.
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

	// What Linux takes for TCP_RTO_MAX_MS; the most is also its default.
	minRTOMax     = time.Second
	maxRTOMax     = 120 * time.Second
	defaultRTOMax = minRTOMax

	minFreshFor = time.Second // health's
)

// off reports whether keep-alive is turned off.
func (c *Config) off() bool { return !c.KeepAlive.Enable && c.KeepAlive.Idle < 0 }

// derives reports whether a part of keep-alive is to be derived.
func (c *Config) derives() bool {
	return c.KeepAlive.Idle == 0 || c.KeepAlive.Interval == 0 || c.KeepAlive.Count == 0
}

// guarded reports whether the guard judges the connections of c, which is
// complete, by a policy.
func (c *Config) guarded() bool { return !c.Unguarded && c.DetectWithin > 0 }

// complete returns c with every derived value filled in. Options that are not to
// be set are negative in the result, keep-alive that is off stays so.
func (c Config) complete() (Config, error) {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("dial: "+format, args...)) }

	c.checkDetection(add)
	c.checkGuard(add)
	if len(errs) == 0 {
		c.fillDetection(add)
	}
	if len(errs) == 0 {
		c.fillGuard(add)
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
