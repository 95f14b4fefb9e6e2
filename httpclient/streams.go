package httpclient

import "time"

// What HTTP/2's ClientConn takes for the server's limit before that has said one
// (RFC 9113 recommends no less).
const unknownLimit = 100

const (
	// minSettle and maxSettle bound how long the limit of a new connection is
	// waited for: the server sends it with its first packet.
	minSettle = 20 * time.Millisecond
	maxSettle = 500 * time.Millisecond

	// stuckFor is how long streams that were given up may fill a connection.
	stuckFor = time.Second
)

// settled is when the limit should be known.
func (cn *conn) settled() int64 {
	return cn.born + int64(min(max(2*cn.rtt, minSettle), maxSettle))
}

// goingAwayLocked reports whether an HTTP/2 connection has no room though it isn't
// full: the server has said that it takes no more requests, or takes fewer now.
// (Streams that have ended are in flight for a moment longer, and one may end
// between the questions, so the first is asked twice.)
func (cn *conn) goingAwayLocked() bool {
	limit := cn.limit
	if !cn.seen {
		limit = 1 // perhaps
	}
	return cn.cc.Available() == 0 && cn.cc.InFlight() < limit && cn.cc.Available() == 0
}

// seeLocked notes the server's limit if that is to be seen for the first time.
func (cn *conn) seeLocked() {
	if cn.seen || !cn.known.Load() {
		return
	}
	if limit := cn.streams(); limit > 0 {
		cn.limit, cn.seen = limit, true
	}
}

// roomLocked reports whether the server takes another stream. Our own count is
// what holds: net/http's still contains, for a moment, streams that have ended.
func (cn *conn) roomLocked(now int64) bool {
	cn.seeLocked()
	if cn.cc.Available() > 0 {
		cn.stuckAt = 0
	} else if !cn.seen || !cn.busyLocked(now) {
		return false
	}
	if !cn.known.Load() {
		if limit := cn.streams(); limit > 0 {
			cn.limit, cn.seen = limit, limit != unknownLimit
		}
		if cn.limit == unknownLimit && now < cn.settled() {
			return cn.users == 0
		}
	}
	if cn.users >= cn.limit { // or is there more by now?
		cn.limit = max(cn.limit, cn.streams())
	}
	return cn.users < cn.limit
}

// streams is the server's limit; 0 if that can't be had now.
func (cn *conn) streams() int {
	if free := cn.cc.Available(); free > 0 {
		return free + cn.cc.InFlight()
	}
	return 0
}

// busyLocked tells a full connection from one that takes nothing any more.
func (cn *conn) busyLocked(now int64) bool {
	switch {
	case cn.goingAwayLocked():
		return false
	case cn.cc.InFlight() <= cn.users:
		cn.stuckAt = 0
	case cn.stuckAt == 0:
		cn.stuckAt = now
	case now-cn.stuckAt > int64(stuckFor):
		return false
	}
	return true
}

// knows reports whether the server has said its limit, or the connection failed.
func (cn *conn) knows() bool {
	if cn.known.Load() {
		return true
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.limit != unknownLimit || cn.failed != nil
}

// answered notes that a response has come, before which HTTP/2's settings came.
func (cn *conn) answered() {
	if !cn.shares || cn.known.Load() {
		return
	}
	cn.mu.Lock()
	first := !cn.known.Swap(true)
	cn.seeLocked()
	limit := cn.limit
	cn.mu.Unlock()
	if first {
		cn.host.learn(limit)
	}
}
