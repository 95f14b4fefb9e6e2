package health

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// direction is where a segment goes.
type direction int

const (
	out direction = iota // to the peer
	in
)

// span is some time.
type span struct{ from, to int64 }

// simHost is an address, and the path to it.
type simHost struct {
	sim    *sim
	addr   netip.AddrPort
	loss   [2]float64
	delay  func() time.Duration // of one direction, now
	outage [2][]span
	reject bool // new connections
	queue  [2]int64
}

// drops reports whether what is sent now is lost.
func (h *simHost) drops(d direction) bool {
	for _, o := range h.outage[d] {
		if h.sim.time.now >= o.from && h.sim.time.now < o.to {
			return true
		}
	}
	return h.loss[d] > 0 && h.sim.rand.Float64() < h.loss[d]
}

// carry brings a segment to the other end, unless it is lost. What was sent
// later doesn't overtake it.
func (h *simHost) carry(d direction, arrive func()) {
	if h.drops(d) {
		return
	}
	h.queue[d] = max(h.queue[d], h.sim.time.now+int64(h.delay()))
	h.sim.time.after(time.Duration(h.queue[d]-h.sim.time.now), arrive)
}

// down is an outage of both directions.
func (h *simHost) down(from int64, d time.Duration) {
	for i := range h.outage {
		h.outage[i] = append(h.outage[i], span{from, from + int64(d)})
	}
}

// simConn is a connection that the guard watches, and its peer.
type simConn struct {
	sim       *sim
	host      *simHost
	ours      simTCP
	peers     simTCP
	forgotten bool // by a NAT gateway
	closed    bool // by its owner
	told      []State
	diedAt    int64
	opened    sockopt.Timers
	openedRTO time.Duration

	conn  *net.TCPConn // has no descriptor
	watch *Watch
}

// simOptions are keep-alive with a user timeout.
func simOptions(idle, interval time.Duration, count int, limit time.Duration) sockopt.Timers {
	return sockopt.Timers{KeepAlive: sockopt.KeepAlive{Enable: true, Idle: idle, Interval: interval, Count: count}, UserTimeout: limit}
}

// derived is what package dial sets under a guard, without a user timeout
// if SlowReaders is set.
func derived(detect time.Duration, slowReaders bool) sockopt.Timers {
	s := int(detect / time.Second)
	count, interval := 3, max(1, s/5)
	if s < 4 {
		count = s - 1
	}
	limit := 3 * detect
	if slowReaders {
		limit = 0
	}
	return simOptions(time.Duration(s-count*interval)*time.Second, time.Duration(interval)*time.Second, count, limit)
}

var (
	// plain is what net.Dialer sets.
	plain = simOptions(15*time.Second, 15*time.Second, 9, 0)
	// bare is Linux's default.
	bare = sockopt.Timers{KeepAlive: sockopt.KeepAlive{Idle: 2 * time.Hour, Interval: 75 * time.Second, Count: 9}}
)

// Control is syscall.RawConn's. The descriptor is one for all.
func (c *simConn) Control(f func(fd uintptr)) error {
	if c.closed {
		return net.ErrClosed
	}
	return c.sim.raw.Control(f)
}

func (c *simConn) Read(func(uintptr) bool) error  { return errors.ErrUnsupported }
func (c *simConn) Write(func(uintptr) bool) error { return errors.ErrUnsupported }

// open opens a connection to h and has it watched.
func (s *sim) open(h *simHost, p *Policy, opts sockopt.Timers) *simConn {
	c := &simConn{sim: s, host: h, opened: opts, conn: &net.TCPConn{}}
	rtoMax := 120 * time.Second
	if opts.UserTimeout > 0 {
		rtoMax = time.Second
	}
	c.ours.time, c.peers.time = &s.time, &s.time
	c.ours.send = func(g segment) { c.carry(out, &c.peers, g) }
	c.peers.send = func(g segment) { c.carry(in, &c.ours, g) }
	c.ours.died = func() {
		c.diedAt = s.time.now
		if !c.closed {
			s.deaths = append(s.deaths, c)
		}
	}
	c.openedRTO = rtoMax
	rtt := 2 * h.delay()
	c.ours.establish(rtt, opts, rtoMax)
	c.peers.establish(rtt, bare, 120*time.Second)
	s.conns = append(s.conns, c)
	s.watchConn(c, p, rtt)
	return c
}

func (s *sim) watchConn(c *simConn, p *Policy, rtt time.Duration) {
	if s.loop == nil {
		s.start()
	}
	w := &Watch{guard: s.guard, policy: p, raw: c, told: func(w *Watch) { c.told = append(c.told, w.State()) }}
	w.look = w.sniff
	key, _, _, _ := target(c.conn)
	err := s.guard.enter(key, w, footing{policy: p, remote: c.host.addr, isNew: true, began: s.time.now - int64(rtt+tick), heard: s.time.now})
	if err != nil {
		panic(err)
	}
	if c.watch == nil {
		c.watch = w
	} else {
		s.kept = append(s.kept, w)
	}
	s.byID[w.id] = c
}

func (c *simConn) carry(d direction, to *simTCP, g segment) {
	if c.forgotten {
		return
	}
	c.host.carry(d, func() {
		if !c.forgotten {
			to.receive(g)
		}
	})
}

// reboot has the peer know nothing of the connection.
func (c *simConn) reboot() { c.peers.die(syscall.ECONNRESET) }

// close is its owner's.
func (c *simConn) close() {
	c.closed = true
	c.ours.die(net.ErrClosed)
}

// echo has the peer answer every segment with one.
func (c *simConn) echo() {
	echoed := uint64(0)
	c.peers.heard = func() {
		n := c.peers.got - echoed
		echoed = c.peers.got
		c.peers.write(int(n))
	}
}

// simLimit is the key of a canary's time limit in its context.
type simLimit struct{}

// simDial is a canary.
type simDial struct {
	addr    string
	timeout time.Duration
	reply   chan error
}

// dial is GuardConfig.Dial: it waits for virtual time.
func (s *sim) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	d := &simDial{addr, ctx.Value(simLimit{}).(time.Duration), make(chan error, 1)}
	s.dials <- d
	select {
	case err := <-d.reply:
		return &net.TCPConn{}, err
	case <-s.guard.ctx.Done():
		return nil, s.guard.ctx.Err() // ctx ends a little later
	}
}

// collect takes the canaries that the loop has just sent.
func (s *sim) collect() {
	for s.flying < s.loop.canaries {
		s.flying++
		s.canaries++
		d := <-s.dials
		h := s.hosts[netip.MustParseAddrPort(d.addr)]
		open := true
		done := func(err error) {
			if !open || s.guard.ctx.Err() != nil {
				return
			}
			open = false
			d.reply <- err
			for {
				s.guard.mu.Lock()
				n := len(s.guard.inbox.canaries)
				s.guard.mu.Unlock()
				if n > s.posted {
					break
				}
				runtime.Gosched()
			}
			s.posted++
			s.flying--
		}
		h.carry(out, func() {
			h.carry(in, func() {
				if h.reject {
					done(syscall.ECONNREFUSED)
				}
				done(nil)
			})
		})
		s.time.after(d.timeout, func() { done(context.DeadlineExceeded) })
	}
}

// host adds an address.
func (s *sim) host(rtt time.Duration) *simHost {
	n := len(s.hosts) + 1
	h := &simHost{
		sim:   s,
		addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), 6379),
		delay: func() time.Duration { return rtt / 2 },
	}
	s.hosts[h.addr] = h
	return h
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
