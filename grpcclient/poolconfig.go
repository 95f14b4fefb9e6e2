package grpcclient

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// PoolConfig configures a [Pool]. The zero value is good. A positive duration
// under a millisecond is an error: it lacks its unit.
type PoolConfig struct {
	// Config is how connections are opened and watched. A Pool without a Dialer
	// makes one, and ends its guard in Close.
	Config Config

	// MaxConnLifetime is the age at which a connection is replaced: a new one is
	// opened, and when it is ready the old one gets no further calls and is closed
	// after the last of its own. While none can be opened the old one goes on. One
	// that is idle at that age is left as it is, until it is that old again.
	// Zero: 30 min. Negative: no limit.
	MaxConnLifetime time.Duration

	// MaxConnLifetimeJitter is subtracted from MaxConnLifetime, in a random part
	// drawn at the connection's birth. Zero: a tenth of it. Negative: none. More
	// than MaxConnLifetime, or set while that is off, is an error.
	MaxConnLifetimeJitter time.Duration

	// MaxConnDrain is how long a connection that was replaced goes on for the sake
	// of its last calls. Those that are still in flight then end with
	// codes.Unavailable. Zero: as long as they like, so that none is lost. A
	// negative value is an error.
	MaxConnDrain time.Duration

	// Trace is told what happens. Nil: nothing.
	Trace *Trace
}

const (
	defaultMaxConnLifetime = 30 * time.Minute
	maxConns               = 1 << 16
)

func (cfg *PoolConfig) check(n int) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("grpcclient: "+format, args...)) }
	if n < 1 || n > maxConns {
		bad("NewPool's n is %d: it is how many connections to have, 1 to %d", n, maxConns)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"MaxConnLifetime", cfg.MaxConnLifetime},
		{"MaxConnLifetimeJitter", cfg.MaxConnLifetimeJitter},
		{"MaxConnDrain", cfg.MaxConnDrain},
	} {
		if d.value > 0 && d.value < time.Millisecond {
			bad("PoolConfig.%s is %v, less than a millisecond: was its unit forgotten?", d.name, d.value)
		}
	}
	if cfg.MaxConnDrain < 0 {
		bad("PoolConfig.MaxConnDrain is %v: use a millisecond or more, or zero to wait for all calls", cfg.MaxConnDrain)
	}
	lifetime, jitter := cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter
	if lifetime == 0 {
		lifetime = defaultMaxConnLifetime
	}
	switch {
	case jitter > 0 && lifetime < 0:
		bad("PoolConfig.MaxConnLifetimeJitter is %v but MaxConnLifetime is off: set a lifetime or drop the jitter", jitter)
	case jitter > lifetime && lifetime > 0:
		bad("PoolConfig.MaxConnLifetimeJitter is %v, more than MaxConnLifetime, %v: it is subtracted from it, so make it smaller", jitter, lifetime)
	}
	return errors.Join(errs...)
}

// complete checks cfg and returns it with its defaults; a limit that is off is
// zero.
func (cfg PoolConfig) complete(n int) (_ PoolConfig, made bool, err error) {
	err = cfg.check(n)
	inner, made, innerErr := cfg.Config.complete()
	if err := errors.Join(err, innerErr); err != nil {
		return cfg, false, err
	}
	cfg.Config = inner
	if cfg.MaxConnLifetime == 0 {
		cfg.MaxConnLifetime = defaultMaxConnLifetime
	}
	if cfg.MaxConnLifetimeJitter == 0 {
		cfg.MaxConnLifetimeJitter = cfg.MaxConnLifetime / 10
	}
	cfg.MaxConnLifetime = max(cfg.MaxConnLifetime, 0)
	cfg.MaxConnLifetimeJitter = max(cfg.MaxConnLifetimeJitter, 0)
	if cfg.Trace == nil {
		cfg.Trace = &Trace{}
	}
	return cfg, made, nil
}

// lifetime draws how old a connection may become; zero: as old as it likes.
func (cfg *PoolConfig) lifetime() time.Duration {
	d := cfg.MaxConnLifetime
	if j := cfg.MaxConnLifetimeJitter; j > 0 {
		d -= rand.N(j)
	}
	return d
}

// Trace is told what a Pool does. Any hook may be nil. Hooks are called without
// any lock held, from goroutines of the Pool's, and so of several connections at
// once; of each its replacement is told before its drain. They must not wait for the
// Pool's Close.
type Trace struct {
	// ConnReplaced is called when a new connection has taken over from an old
	// one, which may still have calls in flight.
	ConnReplaced func(ConnReplaced)

	// ConnDrained is called when a connection that was replaced has been closed,
	// after its last call or after MaxConnDrain, but not of those that Close closes.
	ConnDrained func(ConnDrained)
}

// ConnReplaced is what [Trace.ConnReplaced] is told.
type ConnReplaced struct {
	Index    int           // of the connection, from 0 to NewPool's n - 1
	Silent   bool          // its peer didn't answer; otherwise it was old
	Age      time.Duration // of the one that is replaced
	InFlight int           // its calls
}

// ConnDrained is what [Trace.ConnDrained] is told.
type ConnDrained struct {
	Index  int
	Took   time.Duration // since it was replaced
	CutOff int           // its calls that MaxConnDrain has ended
}

// Stat is what [Pool.Stat] returns.
type Stat struct {
	Conns    int // that calls are given to: NewPool's n, and 0 after Close
	Ready    int // of these, connected
	Suspect  int // of these, with a peer that was asked and hasn't answered yet
	Draining int // replaced, with calls in flight
	InFlight int // calls and streams, of Draining connections too

	Calls           uint64 // that were begun
	Waited          uint64 // that waited because all connections were suspect or being asked, those given up meanwhile included
	ReplacedOld     uint64 // connections that were replaced for their age
	ReplacedSuspect uint64 // and for their peer's silence
}
