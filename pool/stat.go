package pool

import "time"

// Stat is a snapshot of a pool. Taking one costs one lock and no walk.
type Stat struct {
	MaxConns int // the limit
	Total    int // connections now: InUse + Idle + Suspect + Opening + Closing, never above MaxConns
	InUse    int // held by callers, or being checked for one
	Idle     int
	Suspect  int // idle, but passed over, because their peers' kernels don't answer
	Opening  int // calls of Open under way
	Closing  int // being closed
	Waiting  int // callers in the queue

	Acquired     int64         // successful calls of Acquire and Do so far
	Waits        int64         // how many of all calls had to wait
	WaitDuration time.Duration // for how long, all together, when they had their answer
	GaveUp       int64         // callers whose context ended first
	Refused      int64         // callers who were told ErrTooManyWaiters
	Opened       int64         // successful opens so far
	OpenFailed   int64         // failed opens so far
	OpenFailures int           // failed opens since the last successful one
	OldestOpen   time.Duration // how long the oldest running call of Open has taken
	Asked        int64         // connections whose peers' kernels a checkout has asked, see Config.FreshFor
	Pinged       int64         // calls of Ping so far
	Resets       int64         // calls of Reset, and role changes

	closed [reasonCount]int64
}

// Closed returns how many connections have been taken out of the pool for
// this reason so far.
func (s Stat) Closed(why Reason) int64 {
	if int(why) >= len(s.closed) {
		return 0
	}
	return s.closed[why]
}

// ClosedAll returns how many connections have been taken out of the pool so far.
func (s Stat) ClosedAll() int64 {
	var n int64
	for _, c := range s.closed {
		n += c
	}
	return n
}

// Reason says why a connection was taken out of the pool.
type Reason uint8

// The reasons.
const (
	ReasonDead     Reason = iota // the kernel said so: FIN, RST, keep-alive or user timeout
	ReasonSilent                 // its peer was silent, and the guard ended it, or it gave its slot up to a caller
	ReasonFailed                 // the holder reported an error, or panicked
	ReasonPing                   // Ping failed
	ReasonUnread                 // bytes nobody asked for were waiting
	ReasonLifetime               // MaxConnLifetime
	ReasonIdle                   // MaxConnIdleTime
	ReasonReset                  // opened before a Reset or a role change
	ReasonShutdown               // the pool was closed
	ReasonHijacked               // the holder took it out
	reasonCount
)

var _ = [1]struct{}{}[reasonCount-10] // the names below cover all

func (r Reason) String() string {
	switch r {
	case ReasonDead:
		return "dead"
	case ReasonSilent:
		return "silent"
	case ReasonFailed:
		return "failed"
	case ReasonPing:
		return "ping"
	case ReasonUnread:
		return "unread"
	case ReasonLifetime:
		return "lifetime"
	case ReasonIdle:
		return "idle"
	case ReasonReset:
		return "reset"
	case ReasonShutdown:
		return "shutdown"
	case ReasonHijacked:
		return "hijacked"
	default:
		return "unknown"
	}
}

// Stat returns the pool's numbers at this moment.
func (p *Pool[T]) Stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statLocked()
}

func (p *Pool[T]) statLocked() Stat {
	s := p.stat
	s.Acquired -= p.acquiredNot.Load()
	s.WaitDuration = time.Duration(p.waited.Load())
	s.MaxConns = p.cfg.MaxConns
	s.Total = p.total
	s.Idle = p.idle.len
	s.Suspect = p.suspects.len
	s.Opening = p.opening
	s.Closing = p.closing
	s.InUse = p.total - p.idle.len - p.suspects.len - p.opening - p.closing
	s.Waiting = p.waiters.len
	s.OpenFailures = p.fails
	if p.opening > 0 {
		s.OldestOpen = time.Duration(p.now() - p.oldestOpenLocked())
	}
	return s
}
