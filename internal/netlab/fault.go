package netlab

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Direction says which packets of a path a fault concerns.
type Direction uint8

// The directions.
const (
	Both       Direction = iota
	ToServer             // what the client sends
	FromServer           // what the client would receive
)

// path is what is wrong between a host and the router.
type path struct {
	dropTo, dropFrom bool // as seen from the host
	unreachable      bool
	refuse           bool
	loss             int // of 1,000,000
	rate             int // bits per second
	queue            time.Duration
	limited          bool // the cable has rate limits
	delay, jitter    time.Duration
	pumped           bool // the cable is one that can delay

	stateful bool   // the router drops what it has no state for
	answer   bool   // it answers it with RST instead
	epoch    uint16 // of that state
}

// Drop makes packets of the given direction vanish in the router, without a
// word to anybody: what the loss of a link, a crashed switch or a firewall that
// drops looks like. Connections stay as they are on both sides; the kernels
// retransmit into nothing. New connections wait for an answer to their SYN.
// Drop without an argument means [Both].
func (l *Lab) Drop(d ...Direction) { l.fault(l.Servers, drop(d)) }

// Unreachable makes the router answer every packet to a server with ICMP host
// unreachable (for IPv6: address unreachable) and drop what the servers send:
// what a router says when a host no longer answers its ARP requests. Dials fail
// at once with EHOSTUNREACH; established connections only note it.
//
// Without Delay the message arrives inside of the connect call, and IPv6, unlike
// IPv4, then ignores it: a dial fails when its SYN is sent again, after a
// second. Delay(time.Millisecond, 0) is enough to make it fail at once.
func (l *Lab) Unreachable() { l.fault(l.Servers, unreachable) }

// Refuse makes the router answer every TCP segment to or from a server, SYNs
// included, with a reset in the name of the other side: a firewall whose rule
// says "reject". Dials fail with ECONNREFUSED, established connections get
// ECONNRESET when they next send something; they have then ended.
func (l *Lab) Refuse() { l.fault(l.Servers, refuse) }

// ForgetNAT makes the router lose its state: from now on segments of all TCP
// flows that exist vanish in the router, in both directions, and new
// connections work: a NAT gateway or firewall that was restarted, failed over,
// or dropped idle flows. What is lost stays lost: Heal doesn't bring it back,
// and the router remains stateful. It works without Config.NAT, too: the
// router then turns into a stateful firewall at this moment.
func (l *Lab) ForgetNAT() { l.forget(l.Servers, false) }

// Reset makes the router lose its state like ForgetNAT, but answer segments of
// flows that it doesn't know with a reset, to whoever sent them, as some load
// balancers do. Nothing happens to a connection until one side sends something.
// New connections work.
func (l *Lab) Reset() { l.forget(l.Servers, true) }

// Loss makes the router lose packets at random, so many percent of them in each
// direction; 0 ends it.
func (l *Lab) Loss(percent float64) { l.fault(l.Servers, loss(percent)) }

// Rate limits the cables of all servers to so many bits per second in each
// direction, with a queue before each end that drops what doesn't fit; 0 ends
// it. The queue is as long as what passes in 50 ms, or in the given time. A
// Rate that is changed loses what was queued.
func (l *Lab) Rate(bits int, queue ...time.Duration) { l.fault(l.Servers, rate(bits, queue)) }

// Delay makes the client's cable hold back every packet for d, in each
// direction, and for a random time below jitter on top; the round trip takes
// 2·d more, and no packet overtakes another. It is what makes an ICMP message
// arrive after the call that provoked it, as on any real network.
//
// The first Delay replaces the cable by one that leads through this process,
// which takes some milliseconds in which packets are lost; set it before
// connections are open, if that matters. Delay(0, 0) leaves that cable in place.
func (l *Lab) Delay(d, jitter time.Duration) { l.fault([]*Host{l.Client}, delay(d, jitter)) }

// Heal takes all faults out of the paths: Drop, Unreachable, Refuse, Loss, Rate
// and Delay. It doesn't bring back what ForgetNAT and Reset have made the router
// forget, nor what a reboot ended.
func (l *Lab) Heal() { l.fault(l.ends(), heal) }

// Drop is [Lab.Drop] for this host's cable alone.
func (h *Host) Drop(d ...Direction) { h.lab.fault([]*Host{h}, drop(d)) }

// Unreachable is [Lab.Unreachable] for this host alone.
func (h *Host) Unreachable() { h.lab.fault([]*Host{h}, unreachable) }

// Refuse is [Lab.Refuse] for this host alone.
func (h *Host) Refuse() { h.lab.fault([]*Host{h}, refuse) }

// Loss is [Lab.Loss] for this host's cable alone.
func (h *Host) Loss(percent float64) { h.lab.fault([]*Host{h}, loss(percent)) }

// Rate is [Lab.Rate] for this host's cable alone.
func (h *Host) Rate(bits int, queue ...time.Duration) {
	h.lab.fault([]*Host{h}, rate(bits, queue))
}

// Delay is [Lab.Delay] for this host's cable.
func (h *Host) Delay(d, jitter time.Duration) { h.lab.fault([]*Host{h}, delay(d, jitter)) }

// Heal is [Lab.Heal] for this host alone.
func (h *Host) Heal() { h.lab.fault([]*Host{h}, heal) }

// ForgetNAT is [Lab.ForgetNAT] for this server alone.
func (h *Host) ForgetNAT() { h.lab.forget(h.flows(), false) }

// Reset is [Lab.Reset] for this server alone.
func (h *Host) Reset() { h.lab.forget(h.flows(), true) }

// flows are the servers whose flows pass the host's cable.
func (h *Host) flows() []*Host {
	if h == h.lab.Client {
		return h.lab.Servers
	}
	return []*Host{h}
}

// fault changes what is wrong with the hosts' paths and puts it into force.
func (l *Lab) fault(hosts []*Host, change func(*Host) error) {
	l.fail(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, h := range hosts {
			if err := errors.Join(h.isEnd(), change(h)); err != nil {
				return err
			}
			if h.path.loss > 0 || h.path.rate > 0 {
				if err := l.singlePackets(); err != nil {
					return err
				}
			}
		}
		if err := l.nft(l.faultRules()); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := errors.Join(h.lag(), h.limit()); err != nil {
				return err
			}
		}
		return nil
	}())
}

func drop(d []Direction) func(*Host) error {
	dir := Both
	if len(d) > 0 {
		dir = d[0]
	}
	return func(h *Host) error {
		to, from := dir != FromServer, dir != ToServer
		if h == h.lab.Client {
			to, from = from, to
		}
		h.path.dropTo = h.path.dropTo || to
		h.path.dropFrom = h.path.dropFrom || from
		return nil
	}
}

func unreachable(h *Host) error {
	h.path.unreachable = true
	return nil
}

func refuse(h *Host) error {
	h.path.refuse = true
	return nil
}

func loss(percent float64) func(*Host) error {
	return func(h *Host) error {
		if !(percent >= 0 && percent <= 100) {
			return fmt.Errorf("netlab: Loss of %v percent", percent)
		}
		h.path.loss = int(math.Ceil(percent * 10_000))
		return nil
	}
}

func rate(bits int, queue []time.Duration) func(*Host) error {
	length := defaultQueue
	if len(queue) > 0 {
		length = queue[0]
	}
	return func(h *Host) error {
		if bits < 0 || length <= 0 {
			return fmt.Errorf("netlab: Rate of %d bits per second, with a queue of %v", bits, length)
		}
		h.path.rate, h.path.queue = bits, length
		return nil
	}
}

func delay(d, jitter time.Duration) func(*Host) error {
	return func(h *Host) error {
		if d < 0 || jitter < 0 {
			return fmt.Errorf("netlab: Delay of %v, %v", d, jitter)
		}
		h.path.delay, h.path.jitter = d, jitter
		return nil
	}
}

func heal(h *Host) error {
	p := &h.path
	*p = path{limited: p.limited, pumped: p.pumped, stateful: p.stateful, answer: p.answer, epoch: p.epoch}
	return nil
}

func (h *Host) isEnd() error {
	if h.dev == "" {
		return errors.New("netlab: the router has no path of its own; put the fault into a server's")
	}
	return nil
}

// forget makes the router lose its state about the servers' flows.
func (l *Lab) forget(servers []*Host, answer bool) {
	l.fail(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, h := range servers {
			if err := h.isEnd(); err != nil {
				return err
			}
		}
		if err := l.track(servers...); err != nil {
			return err
		}
		for _, h := range servers {
			h.path.epoch++
			h.path.answer = answer
		}
		return l.nft(l.stateRules())
	}())
}
