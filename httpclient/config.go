package httpclient

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/dial"
)

// Config configures a [Client]. The zero value is good. New copies it. A positive
// duration under a millisecond is an error: it lacks its unit.
type Config struct {
	// DetectWithin bounds how long a peer that vanished stays unnoticed, and how
	// long a request without a deadline waits for a host that can't be reached.
	// Zero: 10 s, or what the Dialer says. Less than 2 s is an error, as is any
	// with a Dialer.
	DetectWithin time.Duration

	// Dialer opens the connections, and its guard watches them. Nil: the Client
	// makes one, and closes it in Close. One that is given needs DetectWithin,
	// and is the caller's to close, after the Client.
	Dialer *dial.Dialer

	// Transport is what to start from, as in TransportConfig. Of its limits
	// MaxConnsPerHost, MaxIdleConns, MaxIdleConnsPerHost and IdleConnTimeout
	// have no effect: those below take their place.
	Transport *http.Transport

	// MaxConnsPerHost bounds the connections to one host and port (with one
	// proxy) that are being opened, live and being closed, together. Zero: 256.
	// Negative is an error.
	MaxConnsPerHost int

	// MaxConns bounds the connections of all hosts together. At the limit an
	// idle connection of another host makes room, or the next that comes free;
	// until then opening waits. Spares (MinIdleConnsPerHost) make nobody yield.
	// Zero: no limit. Negative is an error.
	MaxConns int

	// MaxWaitersPerHost bounds the requests that wait for a connection; one more
	// fails at once with ErrTooManyWaiters. Zero: 10,000. Negative: no bound.
	MaxWaitersPerHost int

	// MaxConcurrentOpensPerHost bounds how many connections to a host are opened
	// at once, so that a recovering server isn't trampled. Zero: 16. Negative is
	// an error.
	MaxConcurrentOpensPerHost int

	// MinIdleConnsPerHost is how many connections are kept idle for a host
	// beyond those in use, from its first request until it is forgotten. Zero:
	// none. Negative, or above MaxConnsPerHost, is an error.
	MinIdleConnsPerHost int

	// MaxConnLifetime is the age at which a connection takes no further request,
	// and is closed when the last one has ended. Zero: 30 min. Negative: no
	// limit.
	MaxConnLifetime time.Duration

	// MaxConnLifetimeJitter is subtracted from MaxConnLifetime, in a random part
	// drawn at the connection's birth. Zero: a tenth of it. Negative: none. More
	// than MaxConnLifetime, or set while that is off, is an error.
	MaxConnLifetimeJitter time.Duration

	// MaxConnRequests is after how many requests a connection takes no further
	// one. Zero: no limit. Negative is an error.
	MaxConnRequests int

	// MaxConnIdleTime is how long a connection may lie unused before it is
	// closed. If the server has said less in a Keep-Alive header (timeout=N), it
	// is that, less a second or a tenth. Zero: 55 s, since many load balancers
	// close after 60. Negative: no limit but the server's.
	MaxConnIdleTime time.Duration

	// HostIdleTime is after how long without a request a host is forgotten, with
	// its connections and numbers. Zero: 5 min. Negative: never.
	HostIdleTime time.Duration

	// RefreshPeriod is how often the addresses of the names are looked up to
	// which there are connections. Those whose address isn't among them any more
	// take no further request. Names that give other addresses each time are
	// recognized, and left alone for ten periods. A failed lookup changes
	// nothing. Zero: 30 s. Negative: never. Less than 1 s is an error.
	RefreshPeriod time.Duration

	// OpenTimeout bounds the opening of a connection: the dial, a proxy's answer,
	// and the TLS handshake. Zero: the dialer's Timeout and the Transport's
	// TLSHandshakeTimeout together. Negative is an error.
	OpenTimeout time.Duration

	// FailFast has requests fail with the first failure to dial while there is no
	// connection to the host, as with an http.Transport. False: they wait until
	// their context ends, without a deadline for DetectWithin, while dialing is
	// repeated.
	FailFast bool

	// MaxAttempts is how often a request may be sent, the first time included.
	// One that failed with its connection, before there was a response, is
	// repeated on a connection that was opened since, or whose peer's kernel was
	// asked since, and the last time on none that was idle at the failure before:
	//
	//   - any request, if it is proven that the server has not acted on it:
	//     nothing was written, the stream was refused, or is above the last one
	//     that a GOAWAY admits;
	//   - GET, HEAD, OPTIONS, TRACE, PUT and DELETE, which are idempotent
	//     (RFC 9110, section 9.2.2), and any request with an Idempotency-Key or
	//     X-Idempotency-Key header, after any other failure of the connection.
	//
	// And only if it has no body, or one that can be had again (GetBody), or
	// whose reading hasn't begun. Attempts that a server proves not to have acted
	// on, when it ends a connection that it has served before, are not counted, up
	// to 20 of them. Zero: 3. One: never. Negative is an error.
	MaxAttempts int

	// RetryBudget bounds repetitions to a part of a host's requests: a server that
	// fails must not get several times the load. A hundred repetitions are in
	// store, at first and at most, so that a restart of the server fails none of
	// as many that are in flight. What a server left out that ended a connection
	// in order is repeated for nothing. Zero: 0.1, one for ten requests. Negative:
	// none but those in store. More than 1 is an error.
	RetryBudget float64

	// Trace is told what happens. Nil: nothing, at no cost.
	Trace *Trace
}

const (
	defaultMaxConnsPerHost    = 256
	defaultMaxWaiters         = 10_000
	defaultMaxConcurrentOpens = 16
	defaultMaxConnIdleTime    = 55 * time.Second
	defaultHostIdleTime       = 5 * time.Minute
	defaultRefreshPeriod      = 30 * time.Second
	minRefreshPeriod          = time.Second
	defaultMaxAttempts        = 3
	defaultRetryBudget        = 0.1
	maxDialTimeout            = 5 * time.Second // of a dialer that the Client makes, see pool.Config.OpenTimeout
	minDetectWithin           = 2 * time.Second
)

// check returns all that is wrong with cfg but for what the pools and the dialer
// find.
func (cfg *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("httpclient: Config."+format, args...))
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"MaxConnsPerHost", cfg.MaxConnsPerHost}, {"MaxConns", cfg.MaxConns},
		{"MaxConcurrentOpensPerHost", cfg.MaxConcurrentOpensPerHost},
		{"MinIdleConnsPerHost", cfg.MinIdleConnsPerHost},
		{"MaxConnRequests", cfg.MaxConnRequests}, {"MaxAttempts", cfg.MaxAttempts},
	} {
		if n.value < 0 || n.value > math.MaxInt32 {
			bad("%s is %d: it must be positive, or zero for the default", n.name, n.value)
		}
	}
	if limit := orDefault(cfg.MaxConnsPerHost, defaultMaxConnsPerHost); cfg.MinIdleConnsPerHost > limit && limit > 0 {
		bad("MinIdleConnsPerHost is %d, more than MaxConnsPerHost, %d: raise the one or lower the other", cfg.MinIdleConnsPerHost, limit)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"MaxConnLifetime", cfg.MaxConnLifetime}, {"MaxConnLifetimeJitter", cfg.MaxConnLifetimeJitter},
		{"MaxConnIdleTime", cfg.MaxConnIdleTime}, {"HostIdleTime", cfg.HostIdleTime},
		{"RefreshPeriod", cfg.RefreshPeriod}, {"OpenTimeout", cfg.OpenTimeout},
	} {
		if d.value > 0 && d.value < time.Millisecond {
			bad("%s is %v, less than a millisecond: was its unit forgotten?", d.name, d.value)
		}
	}
	if cfg.OpenTimeout < 0 {
		bad("OpenTimeout is %v: it must be positive, or zero for the default", cfg.OpenTimeout)
	}
	if r := cfg.RefreshPeriod; r >= time.Millisecond && r < minRefreshPeriod {
		bad("RefreshPeriod is %v: use %v or more, zero for %v, or a negative value for never", r, minRefreshPeriod, defaultRefreshPeriod)
	}
	lifetime, jitter := orDefault(cfg.MaxConnLifetime, 30*time.Minute), cfg.MaxConnLifetimeJitter
	switch {
	case jitter > 0 && lifetime < 0:
		bad("MaxConnLifetimeJitter is %v but MaxConnLifetime is off: set a lifetime or drop the jitter", jitter)
	case jitter > lifetime && lifetime > 0:
		bad("MaxConnLifetimeJitter is %v, more than MaxConnLifetime, %v: it is subtracted from it, so make it smaller", jitter, lifetime)
	}
	if b := cfg.RetryBudget; b > 1 || b > 0 && b < 1.0/budgetUnit || math.IsNaN(b) {
		bad("RetryBudget is %v: it is a part of all requests, so make it 0.001 to 1, or negative for none", b)
	}
	if d := cfg.Dialer; d != nil && d.Config().DetectWithin < minDetectWithin {
		bad("Dialer has no DetectWithin, so that nothing notices a silent peer: give one with keep-alive and without Multipath TCP")
	}
	return errors.Join(errs...)
}

// complete returns cfg with its defaults. Limits that are off are zero.
func (cfg Config) complete() Config {
	setDefault(&cfg.MaxConnsPerHost, defaultMaxConnsPerHost)
	setDefault(&cfg.MaxWaitersPerHost, defaultMaxWaiters)
	setDefault(&cfg.MaxConcurrentOpensPerHost, defaultMaxConcurrentOpens)
	setDefault(&cfg.MaxConnIdleTime, defaultMaxConnIdleTime)
	setDefault(&cfg.HostIdleTime, defaultHostIdleTime)
	setDefault(&cfg.RefreshPeriod, defaultRefreshPeriod)
	setDefault(&cfg.MaxAttempts, defaultMaxAttempts)
	setDefault(&cfg.RetryBudget, defaultRetryBudget)
	cfg.HostIdleTime = max(cfg.HostIdleTime, 0)
	cfg.RefreshPeriod = max(cfg.RefreshPeriod, 0)
	cfg.RetryBudget = max(cfg.RetryBudget, 0)
	if cfg.Trace == nil {
		cfg.Trace = &Trace{}
	}
	return cfg
}
