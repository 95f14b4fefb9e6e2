package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	defaultDetectWithin = 10 * time.Second
	minDetectWithin     = 2 * time.Second
	minFreshFor         = time.Second
)

// DialFunc is the shape of net.Dialer's DialContext.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// PolicyConfig says what a Guard does for connections, beyond reporting events.
// The zero value is good.
type PolicyConfig struct {
	// DetectWithin is how long a silent connection may live while nothing else
	// at its peer's address answers either. Zero: 10 s. Less than 2 s is an
	// error.
	DetectWithin time.Duration

	// FreshFor is how long after its peer was heard a connection counts as
	// alive without being asked. Connections that were used within the last
	// minute are asked so often that they stay fresh, where the kernel's
	// keep-alive doesn't do that already; those that weren't, once in half of
	// DetectWithin. Zero: half of DetectWithin, but at least 1 s. Less than 1 s
	// is an error, as keep-alive counts in seconds. Negative: none is asked for
	// freshness' sake, which saves batteries.
	FreshFor time.Duration

	// Yields says that DetectWithin and FreshFor hold only where no other policy
	// does: where a connection is under two, of which one yields, it is the
	// other's that hold. Otherwise the stricter do.
	Yields bool

	// AskedBeforeUse says that the owner calls Check before it uses a connection
	// that isn't fresh, as a pool does: those unused for a minute are then not
	// asked in the background.
	AskedBeforeUse bool

	// Dial opens a connection to an address of which an existing connection has
	// become silent, to learn whether the address or only that connection is
	// lost; what it returns is closed at once, and the peer's program sees that
	// unless it was half-open, as package dial's are. It must obey its context,
	// or Guard.Close waits. GuardConfig.Dial goes before it.
	// Nil: none is opened, others that open connections under the same Guard
	// tell as much.
	Dial DialFunc

	// StateChanged, if not nil, is told of each change of a connection's state.
	// It is called on the Guard's goroutine and must not wait for anything.
	StateChanged func(StateChange)
}

// Policy is a valid PolicyConfig. It may be used for any number of connections
// and Guards.
type Policy struct {
	cfg PolicyConfig // complete
}

// NewPolicy checks cfg, all of it at once.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	var errs []error
	if cfg.DetectWithin != 0 && cfg.DetectWithin < minDetectWithin {
		errs = append(errs, fmt.Errorf("health: PolicyConfig.DetectWithin is %v: it must be zero, for %v, or at least %v",
			cfg.DetectWithin, defaultDetectWithin, minDetectWithin))
	}
	if cfg.FreshFor > 0 && cfg.FreshFor < minFreshFor {
		errs = append(errs, fmt.Errorf("health: PolicyConfig.FreshFor is %v: keep-alive counts in seconds, so use %v or more, zero for half of DetectWithin, or a negative value to keep nothing fresh",
			cfg.FreshFor, minFreshFor))
	}
	if cfg.DetectWithin == 0 {
		cfg.DetectWithin = defaultDetectWithin
	}
	if cfg.FreshFor == 0 {
		cfg.FreshFor = max(minFreshFor, cfg.DetectWithin/2)
	}
	if cfg.DetectWithin >= minDetectWithin && cfg.FreshFor > cfg.DetectWithin {
		errs = append(errs, fmt.Errorf("health: PolicyConfig.FreshFor is %v, more than DetectWithin, %v: a connection that is silent for so long is given up; use less",
			cfg.FreshFor, cfg.DetectWithin))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Policy{cfg: cfg}, nil
}

// Config returns the configuration with every default filled in.
func (p *Policy) Config() PolicyConfig { return p.cfg }

// guardKey is the key of a context's Guard.
type guardKey struct{}

// ContextWithGuard returns a context in which [GuardFromContext] finds g. A pool
// puts its Guard into the context of its Open, and a dialer that finds one
// there has the connection watched by it instead of by its own.
func ContextWithGuard(ctx context.Context, g *Guard) context.Context {
	return context.WithValue(ctx, guardKey{}, g)
}

// GuardFromContext returns the context's Guard, or nil.
func GuardFromContext(ctx context.Context) *Guard {
	g, _ := ctx.Value(guardKey{}).(*Guard)
	return g
}
