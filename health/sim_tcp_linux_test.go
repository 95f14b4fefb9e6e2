package health

import (
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// This file is what Linux's TCP does of which the guard takes notice: the timers
// of net/ipv4/tcp_timer.c and the counters of TCP_INFO, on virtual time. Data is
// counted in segments.

// jiffy is the tick of a kernel with HZ = 250.
const jiffy = int64(4 * time.Millisecond)

// segment travels from one end to the other.
type segment struct {
	seq   uint64 // of its data
	data  bool
	probe bool // keep-alive's or of the window
	rst   bool
	ack   uint64
	edge  uint64 // of the window
}

// simTCP is one end of a connection.
type simTCP struct {
	time   *simTime
	send   func(segment) // into the network
	heard  func()        // data has come in
	died   func()
	state  sockopt.State
	err    error // that the owner reads
	opts   sockopt.Timers
	rtoMax time.Duration

	probes                uint8
	probedAt              int64 // of the window, for the first time
	ackAt, dataAt, sentAt int64
	segsIn, segsOut       uint32
	dataIn, dataOut       uint32
	total                 uint32

	una, nxt, end, edge  uint64 // as a sender
	lostTo               uint64 // what was sent before a time-out, which is taken for lost
	retransmits, backoff uint8
	retransAt            int64
	srtt, mdev, rto      time.Duration
	sampled              uint64
	sampledAt            int64

	got, read, room uint64 // as a receiver
	early           map[uint64]bool
	deaf            bool // the owner doesn't read
	answeredAt      int64

	alive, again, window simTimer
}

const (
	simWindow  = 64 // segments
	simFlight  = 10
	simRetries = 15 // net.ipv4.tcp_retries2
	simMinRTO  = 200 * time.Millisecond
)

func (e *simTCP) establish(rtt time.Duration, opts sockopt.Timers, rtoMax time.Duration) {
	e.state, e.opts, e.rtoMax = sockopt.StateEstablished, opts, rtoMax
	e.ackAt, e.dataAt, e.sentAt = e.time.now, e.time.now, e.time.now
	e.edge, e.room = simWindow, simWindow
	e.answeredAt = -int64(time.Hour)
	e.sample(rtt)
	if opts.KeepAlive.Enable {
		e.time.arm(&e.alive, opts.KeepAlive.Idle, e.keepAlive)
	}
}

func (e *simTCP) sample(rtt time.Duration) {
	if e.srtt == 0 {
		e.srtt, e.mdev = rtt, rtt/2
	} else {
		e.mdev += ((rtt - e.srtt).Abs() - e.mdev) / 4
		e.srtt += (rtt - e.srtt) / 8
	}
	e.rto = min(e.srtt+max(4*e.mdev, simMinRTO), e.rtoMax)
}

// silent is how long ago anything was received, as the kernel counts.
func (e *simTCP) silent() time.Duration { return min(e.since(e.ackAt), e.since(e.dataAt)) }

func (e *simTCP) since(at int64) time.Duration {
	return time.Duration((e.time.now/jiffy - at/jiffy) * jiffy)
}

func (e *simTCP) info(i *sockopt.Info) {
	*i = sockopt.Info{
		Len: 1000, State: e.state, Retransmits: e.retransmits, Probes: e.probes, Backoff: e.backoff,
		RTO: e.rto, RTT: e.srtt, RTTVar: e.mdev, Unacked: uint32(e.nxt - e.una), NotSent: uint32(e.end - e.nxt),
		LastDataSent: e.since(e.sentAt), LastDataRecv: e.since(e.dataAt), LastAckRecv: e.since(e.ackAt),
		TotalRetrans: e.total, SegsOut: e.segsOut, SegsIn: e.segsIn, DataSegsIn: e.dataIn, DataSegsOut: e.dataOut,
		BytesAcked: e.una, SndWnd: uint32(e.edge - min(e.edge, e.una)),
	}
}

// keepAlive is tcp_keepalive_timer.
func (e *simTCP) keepAlive() {
	ka, limit := &e.opts.KeepAlive, e.opts.UserTimeout
	switch silent := e.silent(); {
	case e.una < e.end:
		e.time.arm(&e.alive, ka.Idle, e.keepAlive)
	case silent < ka.Idle:
		e.time.arm(&e.alive, ka.Idle-silent, e.keepAlive)
	case limit > 0 && silent >= limit && e.probes > 0, limit == 0 && int(e.probes) >= ka.Count:
		e.emit(segment{rst: true})
		e.die(syscall.ETIMEDOUT)
	default:
		e.emit(segment{probe: true})
		e.probes++
		e.time.arm(&e.alive, ka.Interval, e.keepAlive)
	}
}

// setKeepAlive is SO_KEEPALIVE.
func (e *simTCP) setKeepAlive(on bool) {
	switch was := e.opts.KeepAlive.Enable; {
	case on && !was:
		e.time.arm(&e.alive, e.opts.KeepAlive.Idle, e.keepAlive)
	case !on:
		e.alive.stop()
	}
	e.opts.KeepAlive.Enable = on
}

// setIdle is TCP_KEEPIDLE.
func (e *simTCP) setIdle(d time.Duration) {
	e.opts.KeepAlive.Idle = d
	if e.opts.KeepAlive.Enable && e.state != sockopt.StateClose {
		e.time.arm(&e.alive, max(0, d-e.silent()), e.keepAlive)
	}
}

// write queues segments.
func (e *simTCP) write(n int) {
	e.end += uint64(n)
	e.push()
}

// push sends what may be sent.
func (e *simTCP) push() {
	if e.state == sockopt.StateClose {
		return
	}
	for e.nxt < e.end && e.nxt < e.edge && e.nxt-e.una < simFlight {
		if e.sampled <= e.una {
			e.sampled, e.sampledAt = e.nxt+1, e.time.now
		}
		e.emitData(e.nxt)
		e.nxt++
		if !e.again.armed {
			e.armAgain()
		}
	}
	if e.una == e.nxt && e.nxt < e.end && !e.window.armed {
		e.armWindow()
	}
}

func (e *simTCP) emitData(seq uint64) {
	e.dataOut++
	e.sentAt = e.time.now
	e.emit(segment{seq: seq, data: true})
}

func (e *simTCP) emit(s segment) {
	e.segsOut++
	s.ack, s.edge = e.got, e.read+e.room
	e.send(s)
}

func (e *simTCP) armAgain() {
	d := min(e.rto<<e.backoff, e.rtoMax)
	if limit := e.opts.UserTimeout; limit > 0 && e.retransmits > 0 {
		d = max(min(d, limit-time.Duration(e.time.now-e.retransAt)), time.Duration(jiffy))
	}
	e.time.arm(&e.again, d, e.retransmit)
}

// retransmit is tcp_retransmit_timer.
func (e *simTCP) retransmit() {
	if e.una == e.nxt {
		return
	}
	if e.retransmits > 0 && time.Duration(e.time.now-e.retransAt) >= e.limit() {
		e.die(syscall.ETIMEDOUT)
		return
	}
	if e.retransmits == 0 {
		e.retransAt = e.time.now
	}
	e.retransmits++
	e.total++
	e.sampled, e.lostTo = 0, e.nxt
	e.emitData(e.una)
	if e.rto<<e.backoff < e.rtoMax {
		e.backoff++
	}
	e.armAgain()
}

// limit is tcp_model_timeout, or the user timeout.
func (e *simTCP) limit() time.Duration {
	if e.opts.UserTimeout > 0 {
		return e.opts.UserTimeout
	}
	limit, rto := time.Duration(0), simMinRTO
	for range simRetries + 1 {
		limit += min(rto, e.rtoMax)
		rto *= 2
	}
	return limit
}

func (e *simTCP) armWindow() {
	e.time.arm(&e.window, min(max(e.rto, simMinRTO)<<e.backoff, e.rtoMax), e.probeWindow)
}

// probeWindow is tcp_probe_timer.
func (e *simTCP) probeWindow() {
	limit := e.opts.UserTimeout
	switch {
	case e.una < e.nxt || e.nxt == e.end:
		e.probes, e.probedAt = 0, 0
		return
	case e.probedAt == 0:
		e.probedAt = e.time.now
	case limit > 0 && time.Duration(e.time.now-e.probedAt) >= limit:
		e.die(syscall.ETIMEDOUT)
		return
	}
	if e.probes >= simRetries {
		e.die(syscall.ETIMEDOUT)
		return
	}
	e.emit(segment{probe: true})
	e.probes++
	if e.backoff < simRetries {
		e.backoff++
	}
	e.armWindow()
}

// receive is what an arriving segment does.
func (e *simTCP) receive(s segment) {
	if e.state == sockopt.StateClose {
		if !s.rst {
			e.send(segment{rst: true})
		}
		return
	}
	e.segsIn++
	switch {
	case s.rst:
		e.die(syscall.ECONNRESET)
	case s.probe: // out of the window
		if e.time.now-e.answeredAt >= int64(500*time.Millisecond) {
			e.answeredAt = e.time.now
			e.emit(segment{})
		}
	default:
		// Linux's fast path for data takes no notice of an ACK that says nothing new.
		if !s.data || s.ack != e.una || s.edge != e.edge || s.seq != e.got {
			e.acknowledge(s)
		}
		if s.data {
			e.take(s)
		}
	}
}

// acknowledge is tcp_ack.
func (e *simTCP) acknowledge(s segment) {
	if s.ack < e.una {
		return
	}
	e.probes, e.ackAt = 0, e.time.now
	e.edge = max(e.edge, s.edge)
	if s.ack > e.una {
		e.una = s.ack
		e.retransmits, e.backoff = 0, 0
		if e.sampled != 0 && e.una >= e.sampled {
			e.sample(time.Duration(e.time.now - e.sampledAt))
			e.sampled = 0
		}
		e.again.stop()
		if e.una < e.nxt {
			if e.una < e.lostTo {
				e.emitData(e.una)
				e.total++
			}
			e.armAgain()
		}
	}
	if e.una == e.nxt && e.nxt < e.end && e.nxt >= e.edge {
		e.armWindow()
		return
	}
	if e.una == e.nxt {
		e.backoff, e.probedAt = 0, 0
		e.window.stop()
	}
	e.push()
}

// take is what arriving data does.
func (e *simTCP) take(s segment) {
	e.dataIn++
	if s.seq >= e.read+e.room { // no room
		e.emit(segment{})
		return
	}
	e.dataAt = e.time.now
	before := e.got
	if s.seq >= e.got {
		if e.early == nil {
			e.early = make(map[uint64]bool)
		}
		e.early[s.seq] = true
	}
	for e.early[e.got] {
		delete(e.early, e.got)
		e.got++
	}
	if !e.deaf {
		e.read = e.got
	}
	e.emit(segment{})
	if e.heard != nil && e.got > before {
		e.heard()
	}
}

// hear has the owner read, or not.
func (e *simTCP) hear(on bool) {
	e.deaf = !on
	if on && e.read < e.got {
		e.read = e.got
		e.emit(segment{})
	}
}

func (e *simTCP) die(err error) {
	if e.state == sockopt.StateClose {
		return
	}
	e.state, e.err = sockopt.StateClose, err
	e.alive.stop()
	e.again.stop()
	e.window.stop()
	if e.died != nil {
		e.died()
	}
}
