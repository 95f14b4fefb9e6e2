package health

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// sim is a Guard without a goroutine and its world, on virtual time. The test's
// goroutine is all there is, but for those of canaries, for which it waits.
type sim struct {
	t     testing.TB
	time  simTime
	rand  *rand.Rand
	guard *Guard
	loop  *loop
	raw   syscall.RawConn
	hosts map[netip.AddrPort]*simHost
	conns []*simConn
	byID  map[entryID]*simConn
	kept  []*Watch

	deaths  []*simConn // of which the guard wasn't told yet
	dials   chan *simDial
	flying  int // canaries that haven't come back
	posted  int // canaries that came back, for the next turn
	wake    int64
	stalled int64 // until when the loop doesn't run
	stall   func() (after, length time.Duration)
	asleep  bool // the loop has ended by itself

	canaries, turns, asks int
	sent                  []int64 // when probes were asked for
	pause                 func()  // in the middle of a step
}

func newSim(t testing.TB, seed uint64) *sim {
	s := &sim{
		t: t, rand: newRand(seed), hosts: make(map[netip.AddrPort]*simHost), byID: make(map[entryID]*simConn),
		dials: make(chan *simDial),
	}
	var err error
	s.guard = newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true, Dial: s.dial})
	s.guard.newKernel = func() kernel { return simKernel{s} }
	c, _ := pair(t)
	s.raw, err = c.SyscallConn()
	require.NoError(t, err)
	return s
}

// start is what Guard.start does, but for the goroutine.
func (s *sim) start() {
	s.guard.started = true
	s.loop = newLoop(s.guard)
	s.loop.clock = func() int64 { return s.time.now }
	s.loop.limit = func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
		return context.WithCancel(context.WithValue(ctx, simLimit{}, d)) // for dial
	}
	s.loop.events = &epoll{} // sweeps needn't poll; nothing is asked of it
	s.loop.judge = func(uintptr) {
		s.loop.cause = io.EOF
		if c := s.byID[s.loop.watches[0].id]; c.ours.state == sockopt.StateClose {
			s.loop.cause = c.ours.err
		}
	}
	s.loop.batchAt = s.time.now
	s.wake, s.asleep = s.time.now, false
	s.schedule()
}

func (s *sim) schedule() {
	if s.stall == nil {
		return
	}
	after, length := s.stall()
	s.time.after(after, func() {
		s.stalled = s.time.now + int64(length)
		s.schedule()
	})
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	for end := s.time.now + int64(d); ; {
		wake := max(s.wake, s.stalled)
		at := min(s.time.next(), wake)
		if at > end {
			s.time.advance(end)
			return
		}
		s.time.advance(at)
		if s.kicked() || len(s.deaths) > 0 {
			s.wake = min(s.wake, s.time.now)
		}
		if max(s.wake, s.stalled) <= s.time.now {
			s.turn()
		}
	}
}

// until lets time pass until ok, or for at most d, and reports which.
func (s *sim) until(d time.Duration, ok func() bool) bool {
	for end := s.time.now + int64(d); s.time.now < end; {
		if ok() {
			return true
		}
		s.run(time.Millisecond)
	}
	return ok()
}

func (s *sim) kicked() bool {
	select {
	case <-s.guard.kicked:
		return true
	default:
		return false
	}
}

// turn is one round of loop.run.
func (s *sim) turn() {
	if s.loop == nil {
		s.wake = never
		return
	}
	s.turns++
	for len(s.deaths) > 0 {
		c := s.deaths[0]
		s.deaths = s.deaths[1:]
		if !c.closed {
			s.loop.deliver(c.watch.id, anyEnd)
		}
	}
	posted := s.posted
	next, ok := s.loop.turn()
	s.posted -= posted
	if !ok {
		s.loop, s.wake, s.asleep = nil, never, true
		return
	}
	s.collect()
	s.wake = next
	if len(s.loop.byID) > 0 || s.turns%64 == 0 {
		s.check()
	}
}

// check looks for contradictions in the loop's books.
func (s *sim) check() {
	l := s.loop
	fail := func(what string) { s.t.Fatalf("at %v: %s", time.Duration(s.time.now), what) }
	if len(l.due) != len(l.byID) {
		fail("the heap and the map of trials differ")
	}
	for i, t := range l.due {
		switch {
		case t.index != i:
			fail("a trial doesn't know its place")
		case i > 0 && t.due < l.due[(i-1)/2].due:
			fail("the heap isn't one")
		case l.byID[t.id] != t:
			fail("a trial isn't in the map")
		case t.due <= s.time.now-int64(time.Millisecond) && t.due <= s.wake-int64(time.Millisecond):
			fail("a trial is overdue")
		}
	}
	if len(l.due) > 300 && s.turns%50 != 0 {
		return
	}
	trials, silent := make(map[*group]int), make(map[*group]int)
	for _, t := range l.due {
		trials[t.group]++
		if t.counted {
			silent[t.group]++
		}
	}
	canaries := 0
	for _, g := range s.guard.table.groups {
		canaries += g.canaries
		if g.trials != trials[g] || g.silent != silent[g] {
			fail("a group has miscounted")
		}
		n := 0
		for i := g.head; i != 0; i = s.guard.table.entries[i-1].next {
			n++
		}
		if n != g.members {
			fail("a group has miscounted its members")
		}
	}
	if canaries > l.canaries || l.canaries != s.flying+s.posted {
		fail("canaries are miscounted")
	}
}

// idle reports whether no trial is open, and all books say so.
func (s *sim) idle() bool {
	if s.loop == nil {
		return true
	}
	s.check()
	for _, g := range s.guard.table.groups {
		if g.trials != 0 || g.silent != 0 {
			return false
		}
	}
	return len(s.loop.byID) == 0
}

// dead are the connections that have ended without their owner's doing.
func (s *sim) dead() (dead []*simConn) {
	for _, c := range s.conns {
		if c.ours.state == sockopt.StateClose && !c.closed {
			dead = append(dead, c)
		}
	}
	return dead
}

// unrestored are the living connections whose options aren't their owners'.
func (s *sim) unrestored() (changed []*simConn) {
	for _, c := range s.conns {
		if c.ours.state != sockopt.StateClose && (c.ours.opts != c.opened || c.ours.rtoMax != c.openedRTO) {
			changed = append(changed, c)
		}
	}
	return changed
}

// simKernel is what the loop asks and tells.
type simKernel struct{ *sim }

func (k simKernel) of(w *Watch) (*simConn, error) {
	c := w.raw.(*simConn)
	if c.closed {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (k simKernel) info(w *Watch, i *sockopt.Info) error {
	c, err := k.of(w)
	if err != nil {
		return err
	}
	c.ours.info(i)
	if k.pause != nil {
		k.pause()
	}
	return nil
}

func (k simKernel) timers(w *Watch, t *sockopt.Timers) error {
	c, err := k.of(w)
	if err != nil {
		return err
	}
	*t = c.ours.opts
	return nil
}

func (k simKernel) ask(w *Watch) error {
	c, err := k.of(w)
	if err != nil {
		return err
	}
	k.asks++
	k.sent = append(k.sent, k.sim.time.now)
	c.ours.setKeepAlive(true)
	c.ours.setIdle(time.Second)
	return nil
}

const (
	simShieldCount    = 127
	simShieldInterval = time.Second
)

func (k simKernel) shield(w *Watch, d time.Duration) error {
	c, err := k.of(w)
	if err != nil {
		return err
	}
	if d%time.Millisecond != 0 || d <= 0 {
		return errors.New("a user timeout is counted in milliseconds")
	}
	o := &c.ours.opts
	o.UserTimeout, o.KeepAlive.Count, o.KeepAlive.Interval = d, simShieldCount, simShieldInterval
	return nil
}

func (k simKernel) rtoMax(w *Watch, d time.Duration) (before time.Duration, err error) {
	c, err := k.of(w)
	if err != nil {
		return 0, err
	}
	before, c.ours.rtoMax = c.ours.rtoMax, d
	return before, nil
}

// restore is sockopt.Restore.
func (k simKernel) restore(w *Watch, t *sockopt.Timers) error {
	c, err := k.of(w)
	if err != nil {
		return err
	}
	o := &c.ours.opts
	if t.Shielded > 0 {
		if o.KeepAlive.Interval == simShieldInterval {
			o.KeepAlive.Interval = t.KeepAlive.Interval
		}
		if o.KeepAlive.Count == simShieldCount {
			o.KeepAlive.Count = t.KeepAlive.Count
		}
		if o.UserTimeout == t.Shielded {
			o.UserTimeout = t.UserTimeout
		}
	}
	if o.KeepAlive.Idle != time.Second {
		return nil
	}
	if !t.KeepAlive.Enable {
		c.ours.setKeepAlive(false)
	}
	c.ours.setIdle(t.KeepAlive.Idle)
	return nil
}

func (k simKernel) sever(w *Watch, sure func(*sockopt.Info) bool) (bool, error) {
	c, err := k.of(w)
	if err != nil {
		return false, err
	}
	var i sockopt.Info
	c.ours.info(&i)
	if !sure(&i) {
		return false, nil
	}
	c.ours.send(segment{rst: true})
	c.ours.die(syscall.ECONNRESET)
	return true, nil
}
