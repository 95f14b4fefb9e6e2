package health

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

var (
	// ErrUnread means that bytes wait on a connection on which nobody has asked
	// for any: the rest of a reply, or a farewell. The next reply that is read
	// would be the wrong one.
	ErrUnread = errors.New("health: unread data on the connection")

	// ErrGuardClosed is what Watch returns after Close.
	ErrGuardClosed = errors.New("health: guard is closed")

	// errEnded is the cause where only the owner could learn the errno.
	errEnded = errors.New("health: connection ended, why is known to its owner only")
)

// GuardConfig configures a [Guard]. The zero value is good.
type GuardConfig struct {
	// PollInterval is how often every connection is looked at where the
	// operating system doesn't report deaths as events: everywhere but on Linux,
	// and on Linux where epoll is denied. Looking costs about 0.3 µs a
	// connection. Zero is 250 ms. It is at least 1 ms. Negative means never:
	// where there are no events, Watch fails with errors.ErrUnsupported.
	PollInterval time.Duration

	// ForcePolling makes the Guard look every PollInterval also where there are
	// events. False uses events where there are any. It excludes a negative
	// PollInterval.
	ForcePolling bool
}

const (
	defaultPollInterval = 250 * time.Millisecond
	minPollInterval     = time.Millisecond
)

// Guard watches connections for their death. It owns one goroutine, from the
// first call of Watch until Close, whatever the number of connections; a Guard
// that was never used owns nothing.
//
// A connection is dead when the kernel knows so: the peer sent FIN or RST, or
// keep-alive or a user timeout gave it up. CloseRead by this program looks to
// the kernel, and therefore to the Guard, like a FIN. A Guard reads no data,
// consumes no errors, changes no options and does not keep a connection from
// being garbage collected. It does not touch the speed of the connections that
// it watches.
//
// All methods may be called concurrently.
type Guard struct {
	interval time.Duration
	forget   func(entryID)

	newEvents func() (*epoll, error) // nil if they aren't wanted

	quit chan struct{}
	done chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	table   table
	events  *epoll // nil while polling
	started bool
	closed  bool
}

// NewGuard returns a Guard. It does nothing yet that needs a Close.
func NewGuard(cfg GuardConfig) (*Guard, error) {
	if cfg.PollInterval > 0 && cfg.PollInterval < minPollInterval {
		return nil, fmt.Errorf("health: GuardConfig.PollInterval is %v: make it %v or more, zero for %v or negative for no polling",
			cfg.PollInterval, minPollInterval, defaultPollInterval)
	}
	if cfg.PollInterval < 0 && cfg.ForcePolling {
		return nil, fmt.Errorf("health: GuardConfig.ForcePolling needs a PollInterval that isn't negative, and it is %v",
			cfg.PollInterval)
	}
	g := &Guard{
		interval: cfg.PollInterval,
		quit:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	if g.interval == 0 {
		g.interval = defaultPollInterval
	}
	if !cfg.ForcePolling {
		g.newEvents = newEpoll
	}
	g.forget = g.sweep // once, lest every connection pay for it
	return g, nil
}

// Close ends the watching and waits until the Guard's goroutine has ended, and
// thus a callback that is running: don't call it from one. What each Watch knows
// it still tells, and Sniff still works. Close may be called more than once.
func (g *Guard) Close() error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.quit)
		if g.events != nil {
			g.events.close()
		}
	}
	started := g.started
	g.mu.Unlock()
	if started {
		<-g.done
	}
	return nil
}

// Watch begins to watch c, or the connection below it to which its NetConn
// methods lead, as those of *tls.Conn do. That must be a *net.TCPConn or a
// *net.UnixConn, other than unixgram; for others, and where this system has
// nothing to watch with, the error wraps [errors.ErrUnsupported].
//
// When c dies, or at once if it has died already, dead is called: once at most,
// from the Guard's only goroutine, with no lock held, perhaps before Watch has
// returned. It must not wait for anything. It may call methods of the Watch, and
// Watch, but not Close of the Guard.
//
// Dead means that no further request will be answered. Bytes that came before
// the end may still be there to read.
//
// The Watch must be kept for as long as its callback is wanted, because the
// Guard does not keep it. If dead is nil, it lives as long as c, and may be
// dropped: [Guard.Cause] finds it. A connection may be watched more than once.
func (g *Guard) Watch(c net.Conn, dead func(*Watch)) (*Watch, error) {
	w := &Watch{guard: g, dead: dead}
	key, raw, layered, err := target(c)
	if err != nil {
		return nil, err
	}
	w.raw, w.layered = raw, layered
	w.look = w.sniff

	if err := g.enter(key, w); err != nil {
		return nil, fmt.Errorf("health: watch %v: %w", c.RemoteAddr(), err)
	}
	runtime.AddCleanup(w, g.forget, w.id)
	if dead == nil {
		key.keep(w)
	}
	return w, nil
}

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

// enter begins to watch.
func (g *Guard) enter(key connKey, w *Watch) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.start(); err != nil {
		return err
	}
	w.id = g.table.add(key, weak.Make(w))
	err := g.register(w)
	if err != nil {
		g.table.remove(w.id, weak.Make(w))
	}
	return err
}

// start makes what the first Watch needs. The Guard is locked.
func (g *Guard) start() error {
	if g.closed {
		return ErrGuardClosed
	}
	if g.started {
		return nil
	}
	if g.newEvents != nil {
		events, err := g.newEvents()
		if err != nil && (!errors.Is(err, errors.ErrUnsupported) || g.interval < 0) {
			return fmt.Errorf("no events: %w", err)
		}
		g.events = events
	}
	g.started = true
	go g.run(g.events)
	return nil
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

// unwatch forgets w.
func (g *Guard) unwatch(w *Watch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if last := g.table.remove(w.id, weak.Make(w)); !last || g.events == nil || g.closed {
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

// Cause returns why c is dead, if it is watched and known to be, and nil
// otherwise. It still knows after c was closed, until c and every Watch of it
// are stopped or dropped.
func (g *Guard) Cause(c net.Conn) error {
	key, _, _, err := target(c)
	if err != nil {
		return nil
	}
	for _, w := range g.watches(func(t *table) entryID { return t.find(key) }, nil) {
		if err := w.Cause(); err != nil {
			return err
		}
	}
	return nil
}

// watches appends the living watches of the entry that find names.
func (g *Guard) watches(find func(*table) entryID, to []*Watch) []*Watch {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.watches(find(&g.table), to)
}
