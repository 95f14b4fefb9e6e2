package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
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

	// Dial replaces PolicyConfig.Dial of every policy, for programs that must
	// reach all their peers in a special way: from another network namespace,
	// say. Nil: each policy's own. The peers' programs see its connections,
	// which are closed at once.
	Dial DialFunc
}

const (
	defaultPollInterval = 250 * time.Millisecond
	minPollInterval     = time.Millisecond
)

// Guard watches connections: for their death, and, under a [Policy], for the
// silence before it. It owns one goroutine while anything is watched under a
// policy, whatever the number of connections; if that is nothing any more the
// goroutine ends, until the next Watch. Without policies it lives from the first
// Watch until Close. A Guard that was never used owns nothing.
//
// A connection is dead when the kernel knows so: the peer sent FIN or RST, or
// keep-alive or a user timeout gave it up. CloseRead by this program looks to
// the kernel, and therefore to the Guard, like a FIN. A Guard reads no data,
// consumes no errors and does not keep a connection from being garbage
// collected.
//
// # Silence
//
// Under a Policy the Guard looks at every connection several times within
// DetectWithin, at what the kernel knows about it already (TCP_INFO): when the
// peer was last heard, and what it has left unanswered. A [State] comes of it.
//
// A connection with nothing in flight is asked by a keep-alive probe, of which
// no byte reaches the peer's application; the connection's own keep-alive is
// mostly enough. Where data is in flight, its retransmissions are the questions.
// Who doesn't answer in time (200 ms, or the round trip and four times its
// variance) is a [Suspect], and is asked again every 600 ms. Meanwhile it has a
// user timeout that keeps the kernel from ending it, and a keep-alive of a
// second; they are put back as they were once it answers or is watched no more,
// unless its owner has set others. When two questions in a row have gone
// unanswered, the other connections to the same address are asked as well.
//
// A suspect that has answered nothing is ended in two cases:
//
//   - A new connection to the same address works meanwhile, and the suspect
//     leaves more questions unanswered after that: five in all, eight where
//     packets got lost lately, or four if others are as silent. It is the flow
//     that is lost: a NAT gateway or firewall has forgotten it, or a stand-in has
//     taken over the address. Its owner reads ECONNRESET, at once.
//   - DetectWithin has passed since the peer was last heard, and what the answer
//     to one more question takes (0.75 s, and some milliseconds for the kernel to
//     end it); or, where data is in flight, since that has waited, and up to a
//     second, for the kernel to repeat it once more. But if nobody had asked for
//     long, not before half of DetectWithin, or 3 s, of asking. Its owner reads
//     ETIMEDOUT from the kernel, or ECONNRESET if much data was in flight.
//
// [Guard.Cause] tells a [*SilenceError] then. An outage that is shorter ends no
// connection. Where a read and a write wait, the second of them to be told
// returns ENOTCONN or EPIPE; neither returns EOF. A peer that answers window
// probes but reads nothing is a [SlowReader]. It is ended when the connection's
// user timeout is over, with a [*SlowReaderError], and never if that is zero.
//
// The questions prove the kernel at the other end of the TCP connection, which
// may be a proxy's; they don't prove the process.
//
// All this needs Linux. Elsewhere a Policy has no effect, and a State is
// Unwatched until it is Dead.
//
// All methods may be called concurrently.
type Guard struct {
	interval  time.Duration
	forget    func(entryID)
	dial      DialFunc // GuardConfig.Dial
	born      time.Time
	askers    sync.Pool // of *sockets, for other goroutines than the loop's
	newKernel func() kernel

	newEvents func() (*epoll, error) // nil if they aren't wanted

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	canaries sync.WaitGroup
	running  sync.WaitGroup // the goroutine
	kicked   chan struct{}  // for a goroutine without events; capacity 1
	wary     atomic.Bool    // trials are open

	mu      sync.Mutex
	table   table
	inbox   inbox
	events  *epoll        // nil while polling
	detect  time.Duration // the least DetectWithin so far
	fresh   time.Duration // the least positive FreshFor so far
	entered uint64        // calls of Watch
	retune  bool          // sweeps must come more often
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
		dial:     cfg.Dial,
		born:     time.Now(),
		kicked:   make(chan struct{}, 1),
	}
	g.newKernel = func() kernel { return newSockets() }
	g.ctx, g.cancel = context.WithCancel(context.Background())
	if g.interval == 0 {
		g.interval = defaultPollInterval
	}
	if !cfg.ForcePolling {
		g.newEvents = newEpoll
	}
	g.askers.New = func() any { return newSockets() }
	g.forget = g.sweep // once, lest every connection pay for it
	return g, nil
}

// Close ends the watching and waits until the Guard's goroutine has ended, and
// thus a callback that is running, or a policy's Dial: don't call it from one.
// What each Watch knows it still tells, and Sniff still works. Connections go on
// under the kernel's options alone. Close may be called more than once.
func (g *Guard) Close() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		g.cancel()
		if g.events != nil {
			g.events.close()
		}
		g.kickLocked()
	}
	g.mu.Unlock()
	g.running.Wait()
	g.canaries.Wait()
	return nil
}

// Watch begins to watch c, or the connection below it to which its NetConn
// methods lead, as those of *tls.Conn do. That must be a *net.TCPConn or a
// *net.UnixConn, other than unixgram; for others, and where this system has
// nothing to watch with, the error wraps [errors.ErrUnsupported].
//
// Under a nil Policy only the kernel's verdicts count, as for Unix sockets and
// Multipath TCP under any: the Guard asks nothing and ends nothing. A connection
// may be watched more than once, and under more than one policy; the strictest
// holds. But let only one Guard watch it under a policy. It should be watched
// as soon as it is open, since a new connection that works is evidence about
// its silent siblings.
//
// When c becomes a Suspect, when it is cleared of that, and last and once when
// it dies, or at once if it is dead already, told is called, and may look at the
// Watch's State: from the Guard's only goroutine, with no lock held, perhaps
// before Watch has returned. It must not wait for anything. It may call methods
// of the Watch, and Watch, but neither Close nor Check of the Guard.
//
// Dead means that no further request will be answered. Bytes that came before
// the end may still be there to read.
//
// The Watch must be kept for as long as its callback is wanted, because the
// Guard does not keep it. If told is nil, it lives as long as c, and may be
// dropped: [Guard.Cause] and [Guard.View] find it.
func (g *Guard) Watch(c net.Conn, p *Policy, told func(*Watch)) (*Watch, error) {
	w := &Watch{guard: g, told: told, policy: p}
	key, raw, layered, err := target(c)
	if err != nil {
		return nil, err
	}
	w.raw, w.layered = raw, layered
	w.look = w.sniff

	f := footing{policy: p}
	if p != nil {
		f = g.footing(w, key, p)
	}
	if err := g.enter(key, w, f); err != nil {
		return nil, fmt.Errorf("health: watch %v: %w", c.RemoteAddr(), err)
	}
	runtime.AddCleanup(w, g.forget, w.id)
	if told == nil {
		key.keep(w)
	}
	return w, nil
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
	g.reregister()
	l := newLoop(g)
	g.running.Go(l.run)
	return nil
}

func (g *Guard) now() int64 { return int64(time.Since(g.born)) }

// Cause returns why c is dead, if it is watched and known to be, and nil
// otherwise. It still knows after c was closed, until c and every Watch of it
// are stopped or dropped. A nil Guard knows of nothing.
func (g *Guard) Cause(c net.Conn) error {
	key, _, _, err := target(c)
	if err != nil || g == nil {
		return nil
	}
	for _, w := range g.watchesOn(key) {
		if err := w.Cause(); err != nil {
			return err
		}
	}
	return nil
}

// watchesOf appends the living watches of an entry.
func (g *Guard) watchesOf(id entryID, to []*Watch) []*Watch {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.watches(id, to)
}

// watchesOn returns the living watches of a connection.
func (g *Guard) watchesOn(key connKey) []*Watch {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.watches(g.table.find(key), nil)
}
