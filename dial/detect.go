package dial

import (
	"math"
	"net"
	"strings"
	"time"
)

// Never is the detection time where nothing notices a death. It is larger than
// any other duration, so that comparisons with a limit do what they should.
const Never time.Duration = math.MaxInt64

// KernelLimit is after how long Linux gives up a connection with data in flight
// when no user timeout is set and the round trip is short: after 15
// retransmissions, the default of net.ipv4.tcp_retries2, which nothing here
// reads. It takes longer on a long path, and is shorter where TCP_RTO_MAX_MS is
// set, see [Config].RTOMax.
const KernelLimit = 924600 * time.Millisecond

// kernelLimit is KernelLimit for any TCP_RTO_MAX_MS: what tcp_model_timeout in
// Linux's net/ipv4/tcp_timer.c says.
func kernelLimit(rtoMax time.Duration) time.Duration {
	const rtoMin, retries = 200 * time.Millisecond, 15
	limit, rto := time.Duration(0), rtoMin
	for range retries + 1 {
		limit += min(rto, rtoMax)
		rto *= 2
	}
	return limit
}

// DetectionTime returns how long Linux takes to notice that a peer has silently
// vanished, with these values in force on a connection.
//
// Idle counts from when the peer was last heard, on a connection with nothing
// in flight. Without a user timeout it is Idle + Interval·Count. With one, the
// kernel ignores the count and gives up at the first probe due at or after the
// user timeout, but not before the second one. It is [Never] without
// keep-alive, whatever the user timeout.
//
// Busy counts from when something was sent that is never acknowledged; add one
// retransmission, 0.4 to 0.6 s on a short path and more on a long one. It is
// the user timeout, or [KernelLimit] without one. A peer that is alive but
// doesn't read counts as dead with a user timeout, and is never given up
// without one.
//
// Linux's timers are coarse: each fires up to an eighth of its length late, the
// less the shorter it is. 2 s come out as 2.0 s, 20 s as up to 22.
//
// The parts of ka mean what they mean to package net: zero is 15 s, 15 s and 9;
// negative is the kernel's default, 7200 s, 75 s and 9; fractions of a second
// are rounded up. A userTimeout of zero or less is none.
func DetectionTime(ka net.KeepAliveConfig, userTimeout time.Duration) (idle, busy time.Duration) {
	busy = KernelLimit
	if userTimeout > 0 {
		busy = roundUp(userTimeout, time.Millisecond)
	}
	if !ka.Enable {
		return Never, busy
	}
	first := part(ka.Idle, 15*time.Second, 7200*time.Second)
	interval := part(ka.Interval, 15*time.Second, 75*time.Second)
	probes := time.Duration(ka.Count)
	if probes <= 0 {
		probes = 9
	}
	if userTimeout > 0 {
		probes = 1
		if late := busy - first; late > interval {
			probes = (late-1)/interval + 1
		}
	}
	if interval > (Never-first)/probes {
		return Never, busy
	}
	return first + interval*probes, busy
}

// part returns d in the whole seconds that the kernel counts in.
func part(d, zero, negative time.Duration) time.Duration {
	switch {
	case d == 0:
		return zero
	case d < 0:
		return negative
	}
	return roundUp(d, time.Second)
}

func roundUp(d, unit time.Duration) time.Duration {
	if r := d % unit; r != 0 && d <= Never-unit {
		return d - r + unit
	}
	return d
}

// derive splits a detection time, of which fractions of a second are dropped,
// into keep-alive values whose sum it is: three probes, an interval apart that
// is a fifth of it, so that two may get lost. Below four seconds there is no
// room for three.
func derive(total time.Duration) net.KeepAliveConfig {
	s := int(total / time.Second)
	count, interval := 3, max(1, s/5)
	if s < 4 {
		count = s - 1
	}
	return net.KeepAliveConfig{
		Idle:     time.Duration(s-count*interval) * time.Second,
		Interval: time.Duration(interval) * time.Second,
		Count:    count,
	}
}

// short formats a duration without zero minutes and seconds at its end.
func short(d time.Duration) string {
	if d == Never {
		return "never"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
