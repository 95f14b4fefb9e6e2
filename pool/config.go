package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"reflect"
	"runtime"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

const (
	defaultDetectWithin       = 10 * time.Second
	minDetectWithin           = 2 * time.Second
	minFreshFor               = time.Second
	defaultMaxConnLifetime    = 30 * time.Minute
	defaultMaxConnIdleTime    = 55 * time.Second
	defaultPingPeriod         = 30 * time.Second
	defaultPingTimeout        = time.Second
	defaultCloseTimeout       = 50 * time.Millisecond
	defaultMaxOpenBackoff     = time.Second
	defaultMaxOpenTimeout     = 5 * time.Second
	defaultMaxConcurrentOpens = 4
	defaultMaxWaiters         = 10_000

	minOpenBackoff = 10 * time.Millisecond
	minDuration    = time.Millisecond // less is a forgotten unit
)

// Config says how a [Pool] opens, checks, limits and closes its connections.
// Only Open is required. New copies it; later changes have no effect. A
// positive duration under a millisecond is an error: it lacks its unit.
type Config[T any] struct {
	// Open makes a connection. Required. Its context ends after OpenTimeout
	// or when the pool is closed, and doesn't belong to any caller of
	// Acquire; the connection must outlive it. It carries the pool's guard, see
	// [health.GuardFromContext]: dial with it. A panic becomes an error that
	// carries the stack.
	Open func(context.Context) (T, error)

	// Close ends a connection, politely: the peer may still be told goodbye.
	// It is given CloseTimeout; after that the socket below is closed hard
	// and the connection no longer counts. Nil: T's own Close, Close() error or
	// Close(context.Context) error, or else that of the connection that
	// NetConn returns; New fails if T has none of these. A connection that is
	// known to be cut off is closed hard first, so that nothing waits for its
	// peer.
	Close func(T) error

	// Ping asks the peer whether the connection still works, on the
	// connection itself, before it is handed out; any error discards the
	// connection. Its I/O ends with its context, like that of Do's function.
	// Nil: no application byte is ever sent by the pool.
	Ping func(context.Context, T) error

	// NetConn tells which network connection lies below a T, so that the
	// pool can watch its socket. Nil: T itself if it is a net.Conn, else what
	// its NetConn method returns, if it has one. Without a network connection
	// only Ping, lifetimes and what callers report tell the pool anything.
	NetConn func(T) net.Conn

	// Classify replaces [health.Classify] in judging the errors given to Fail
	// and returned from Do's function. Returning [health.Role] from it makes
	// the pool replace all its connections. [health.Unknown] keeps this one,
	// unless the error is one of I/O, after which nobody knows what is still
	// under way, or bytes wait unread. A panic closes the connection.
	Classify func(error) health.Class

	// MaxConns bounds the connections being opened, live and being closed,
	// together. Zero: GOMAXPROCS, but at least 4. Negative, or more than
	// 2³¹−1: an error.
	MaxConns int

	// MinIdleConns is how many connections the pool keeps idle beyond those
	// in use, as far as MaxConns allows. They obey MaxConnIdleTime and
	// MaxConnLifetime like all others and are replaced when those end them.
	// Zero: none. Negative or above MaxConns: an error.
	MinIdleConns int

	// MaxWaiters bounds how many callers may wait in Acquire; one more gets
	// ErrTooManyWaiters at once. Those who come back, because the connection
	// they were given failed its check, are not refused. Zero: 10,000.
	// Negative: no bound.
	MaxWaiters int

	// MaxConcurrentOpens bounds how many calls of Open run at once, so that
	// a recovering server isn't trampled. Zero: 4. Negative: an error.
	MaxConcurrentOpens int

	// DetectWithin is how long a connection may be silent before the guard
	// ends it (see [health.Policy]), and how long a caller without a deadline
	// waits in Acquire while there is no live connection and opening fails.
	// Zero: 10 s; but if FreshFor is zero, too, a connection from a holdfast
	// dialer keeps that dialer's. Otherwise the stricter of the two holds. Less
	// than 2 s: an error.
	DetectWithin time.Duration

	// FreshFor is how long a connection is handed out without a question after
	// it was used or its peer was heard: by then the guard has asked most of
	// them anyway. After that its peer's kernel is asked first, which takes one
	// round trip and shows the peer's application nothing; if it leaves that
	// unanswered for 200 ms, or more on a slow path, the connection is passed
	// over until it answers. All idle connections that would have to be asked
	// are asked together. Zero: half of DetectWithin, but at least 1 s.
	// Negative: nothing is ever asked or kept fresh. Positive and under 1 s, as
	// keep-alive counts in seconds, or more than DetectWithin: an error. It
	// takes Linux and a socket; where there is none of these nothing is asked.
	FreshFor time.Duration

	// OpenTimeout bounds one call of Open. Zero: DetectWithin, but at most 5 s:
	// after that a kernel repeats its SYN so seldom that a new attempt finds
	// the end of an outage sooner than the old one. Negative: an error, since
	// an Open without bound would hold its slot for ever.
	OpenTimeout time.Duration

	// MaxOpenBackoff bounds the pause between attempts to open after a
	// failure: a random duration up to 10 ms, doubled with each failure up to
	// this ("full jitter"). While opening fails, no more than one attempt is
	// begun in each such window. Zero: 1 s. Under 10 ms, or more than
	// DetectWithin: an error.
	MaxOpenBackoff time.Duration

	// FailFast tells those who wait while there is no live connection of the
	// first failure to open one. False: they wait until their deadline, or
	// without one for DetectWithin, while opening is tried again, unless the
	// failure is [health.Permanent].
	FailFast bool

	// MaxConnLifetime is the age at which a connection is no longer handed
	// out, and closed as soon as it is idle. Zero: 30 min. Negative: no limit.
	MaxConnLifetime time.Duration

	// MaxConnLifetimeJitter is subtracted from MaxConnLifetime, in a random
	// part drawn once for each connection at its birth, so that connections
	// born together don't end together. (pgxpool's field of this name is
	// added instead; here the maximum is a maximum.) Zero: a tenth of
	// MaxConnLifetime. Negative: none. More than MaxConnLifetime, or set
	// while that is off: an error.
	MaxConnLifetimeJitter time.Duration

	// MaxConnIdleTime is how long a connection may lie unused before it is
	// closed. It may be closed up to a sixteenth of it early. Keep it below the
	// idle limit of the server and of everything between (many load balancers:
	// 60 s). Zero: 55 s. Negative: no limit.
	MaxConnIdleTime time.Duration

	// PingPeriod is how long ago a connection must have been used or pinged
	// for Ping to be called at checkout. Zero: 30 s. Negative, or set without
	// Ping: an error.
	PingPeriod time.Duration

	// PingTimeout bounds one call of Ping, inside the caller's own deadline.
	// Zero: 1 s. Negative, more than DetectWithin, or set without Ping: an
	// error.
	PingTimeout time.Duration

	// CloseTimeout bounds a polite close. No caller ever waits for it, but the
	// connection counts against MaxConns until its end. Where there is no
	// network connection to close hard, that is the end of Close. Zero: 50 ms.
	// Negative: an error.
	CloseTimeout time.Duration

	// AllowUnread keeps connections on which bytes wait unread while they are
	// idle, for protocols whose servers speak unasked (notices, pushes).
	// False: such a connection is discarded, because on a request-response
	// protocol they are the rest of somebody else's reply. Do looks when its
	// function returns, and every checkout looks, but for those within a
	// millisecond of the last. Bytes under TLS can't be judged from outside
	// and never discard a connection.
	AllowUnread bool

	// LeakTimeout reports connections held longer than this, once each, with
	// the stack of the Acquire, to Trace.ConnLeaked. It costs a stack walk per
	// Acquire. Zero: off. Negative, or set without that hook: an error.
	LeakTimeout time.Duration

	// Guard watches the sockets. Nil: the pool makes one, and ends it in
	// Close. Give the same to several pools to let them share one goroutine,
	// and what they learn about an address; it is then the caller's to close,
	// after the pools: without it nothing can be opened any more. A dialer of
	// this module finds it in Open's context and uses it instead of its own.
	Guard *health.Guard

	// Trace is told what the pool does. Nil: nothing, at no cost.
	Trace *Trace
}

// withDefaults returns a copy with every zero replaced by what it stands for
// and every "off" by zero or the maximum, or all that is wrong with cfg.
func (cfg Config[T]) withDefaults() (Config[T], error) {
	if err := cfg.validate(); err != nil {
		return cfg, err
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns()
	}
	setDefault(&cfg.MaxConcurrentOpens, defaultMaxConcurrentOpens)
	setDefault(&cfg.MaxWaiters, defaultMaxWaiters)
	setDefault(&cfg.DetectWithin, defaultDetectWithin)
	setDefault(&cfg.FreshFor, max(minFreshFor, cfg.DetectWithin/2))
	setDefault(&cfg.OpenTimeout, min(cfg.DetectWithin, defaultMaxOpenTimeout))
	setDefault(&cfg.MaxOpenBackoff, defaultMaxOpenBackoff)
	setDefault(&cfg.MaxConnLifetime, defaultMaxConnLifetime)
	setDefault(&cfg.MaxConnIdleTime, defaultMaxConnIdleTime)
	setDefault(&cfg.PingPeriod, defaultPingPeriod)
	setDefault(&cfg.PingTimeout, defaultPingTimeout)
	setDefault(&cfg.CloseTimeout, defaultCloseTimeout)
	if cfg.MaxConnLifetime > 0 {
		setDefault(&cfg.MaxConnLifetimeJitter, cfg.MaxConnLifetime/10)
	}
	cfg.MaxConnLifetimeJitter = max(cfg.MaxConnLifetimeJitter, 0)
	if cfg.Classify == nil {
		cfg.Classify = health.Classify
	}
	return cfg, nil
}

// policy is under what the guard watches the connections of a complete Config.
func (cfg *Config[T]) policy(t *Trace, yields bool) (*health.Policy, error) {
	p := health.PolicyConfig{DetectWithin: cfg.DetectWithin, FreshFor: cfg.FreshFor, AskedBeforeUse: true, Yields: yields}
	if t != nil {
		p.StateChanged = t.ConnState
	}
	return health.NewPolicy(p)
}

// ctxCloser is the shape of pgx's connections.
type ctxCloser interface{ Close(context.Context) error }

// closes reports whether T has a Close method of its own.
func closes[T any]() bool {
	t := reflect.TypeFor[T]()
	return t.Implements(reflect.TypeFor[io.Closer]()) || t.Implements(reflect.TypeFor[ctxCloser]())
}

func defaultMaxConns() int { return max(4, runtime.GOMAXPROCS(0)) }

func setDefault[V comparable](field *V, value V) {
	var zero V
	if *field == zero {
		*field = value
	}
}

func (cfg *Config[T]) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("pool: Config."+format, args...))
	}
	if cfg.Open == nil {
		bad("Open is nil; it must return a new connection")
	}
	if cfg.Close == nil && cfg.NetConn == nil && !closes[T]() {
		bad("Close is nil, and %v has no method Close() error or Close(context.Context) error; set Close", reflect.TypeFor[T]())
	}
	if cfg.MaxConns < 0 || cfg.MaxConns > math.MaxInt32 {
		bad("MaxConns is %d; it must be positive and at most %d, or 0 for the default", cfg.MaxConns, math.MaxInt32)
	}
	limit := cfg.MaxConns
	if limit == 0 {
		limit = defaultMaxConns()
	}
	if cfg.MinIdleConns < 0 {
		bad("MinIdleConns is %d; it must not be negative", cfg.MinIdleConns)
	} else if cfg.MaxConns >= 0 && cfg.MinIdleConns > limit {
		bad("MinIdleConns is %d, more than MaxConns, %d; raise MaxConns or lower MinIdleConns", cfg.MinIdleConns, limit)
	}
	if cfg.MaxConcurrentOpens < 0 {
		bad("MaxConcurrentOpens is %d; it must be positive, or 0 for the default of %d", cfg.MaxConcurrentOpens, defaultMaxConcurrentOpens)
	}
	cfg.validateDurations(bad)
	cfg.validatePing(bad)
	if cfg.LeakTimeout < 0 {
		bad("LeakTimeout is %v; it must be positive, or 0 to report nothing", cfg.LeakTimeout)
	}
	if cfg.LeakTimeout > 0 && (cfg.Trace == nil || cfg.Trace.ConnLeaked == nil) {
		bad("LeakTimeout is set but Trace.ConnLeaked is nil, so nobody would be told; set that hook")
	}
	return errors.Join(errs...)
}

func (cfg *Config[T]) validateDurations(bad func(string, ...any)) {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"OpenTimeout", cfg.OpenTimeout}, {"CloseTimeout", cfg.CloseTimeout},
		{"MaxConnLifetime", cfg.MaxConnLifetime}, {"MaxConnLifetimeJitter", cfg.MaxConnLifetimeJitter},
		{"MaxConnIdleTime", cfg.MaxConnIdleTime}, {"LeakTimeout", cfg.LeakTimeout},
		{"PingPeriod", cfg.PingPeriod}, {"PingTimeout", cfg.PingTimeout},
	} {
		if d.value > 0 && d.value < minDuration {
			bad("%s is %v, less than a millisecond; was its unit forgotten?", d.name, d.value)
		}
	}
	if cfg.DetectWithin != 0 && cfg.DetectWithin < minDetectWithin {
		bad("DetectWithin is %v; it must be at least %v, or 0 for %v", cfg.DetectWithin, minDetectWithin, defaultDetectWithin)
	}
	if cfg.OpenTimeout < 0 {
		bad("OpenTimeout is %v; it must be positive, or 0 for the default", cfg.OpenTimeout)
	}
	if cfg.MaxOpenBackoff != 0 && cfg.MaxOpenBackoff < minOpenBackoff {
		bad("MaxOpenBackoff is %v; it must be at least %v, or 0 for %v", cfg.MaxOpenBackoff, minOpenBackoff, defaultMaxOpenBackoff)
	}
	detect := cfg.DetectWithin
	setDefault(&detect, defaultDetectWithin)
	if cfg.FreshFor > 0 && cfg.FreshFor < minFreshFor {
		bad("FreshFor is %v; keep-alive counts in seconds, so make it %v or more, or 0 for half of DetectWithin, or negative to ask nothing", cfg.FreshFor, minFreshFor)
	}
	if cfg.FreshFor > detect && detect >= minDetectWithin {
		bad("FreshFor is %v, more than DetectWithin, %v; a connection that is silent for so long is given up", cfg.FreshFor, detect)
	}
	if cfg.MaxOpenBackoff > detect && detect >= minDetectWithin {
		bad("MaxOpenBackoff is %v, more than DetectWithin, %v; callers would be told that nothing can be opened before it was tried again", cfg.MaxOpenBackoff, detect)
	}
	if cfg.CloseTimeout < 0 {
		bad("CloseTimeout is %v; it must be positive, or 0 for %v", cfg.CloseTimeout, defaultCloseTimeout)
	}
	lifetime := cfg.MaxConnLifetime
	setDefault(&lifetime, defaultMaxConnLifetime)
	switch {
	case cfg.MaxConnLifetimeJitter > 0 && lifetime < 0:
		bad("MaxConnLifetimeJitter is %v but MaxConnLifetime is off; set a lifetime or drop the jitter", cfg.MaxConnLifetimeJitter)
	case cfg.MaxConnLifetimeJitter > lifetime && lifetime > 0:
		bad("MaxConnLifetimeJitter is %v, more than MaxConnLifetime, %v; it is subtracted from it, so make it smaller", cfg.MaxConnLifetimeJitter, lifetime)
	}
}

func (cfg *Config[T]) validatePing(bad func(string, ...any)) {
	detect := cfg.DetectWithin
	setDefault(&detect, defaultDetectWithin)
	if cfg.PingPeriod < 0 {
		bad("PingPeriod is %v; it must be positive, or 0 for %v", cfg.PingPeriod, defaultPingPeriod)
	}
	if cfg.PingTimeout < 0 {
		bad("PingTimeout is %v; it must be positive, or 0 for %v", cfg.PingTimeout, defaultPingTimeout)
	}
	if cfg.PingTimeout > detect && detect >= minDetectWithin {
		bad("PingTimeout is %v, more than DetectWithin, %v; a ping that takes longer has failed its purpose", cfg.PingTimeout, detect)
	}
	if cfg.Ping == nil && cfg.PingPeriod > 0 {
		bad("PingPeriod is %v but Ping is nil; set Ping or drop PingPeriod", cfg.PingPeriod)
	}
	if cfg.Ping == nil && cfg.PingTimeout > 0 {
		bad("PingTimeout is %v but Ping is nil; set Ping or drop PingTimeout", cfg.PingTimeout)
	}
}
