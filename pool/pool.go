package pool

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// trustFor is how long after a checkout the next one needs no check. A caller
// that uses a connection this often would find out as soon as a peek would.
const trustFor = int64(time.Millisecond)

// provenAfter is how long a new connection must live to have been worth its
// dial, if no use of it goes well before that.
const provenAfter = time.Second

// Pool keeps connections of type T. Make one with [New]. All methods may be
// called concurrently.
type Pool[T any] struct {
	// Constant after New.
	cfg      Config[T]
	start    time.Time
	guard    *health.Guard
	policy   *health.Policy
	ownGuard bool
	ledger   ledger[T]
	observed bool // Acquire and Release have hooks to call or stacks to take

	// An idle connection needs no more than a peek for unquestioned, and no
	// question to its peer's kernel for freshFor.
	unquestioned int64
	freshFor     int64

	waitPool sync.Pool
	closeFn  func(T) error
	ctx      context.Context // ends with the pool
	cancel   context.CancelFunc
	finished chan struct{} // closed when Close has nothing left to wait for
	work     sync.WaitGroup

	acquiredNot atomic.Int64 // of stat.Acquired, those that failed their check or came too late
	waited      atomic.Int64 // Stat.WaitDuration

	// mu guards the fields below and what entry and waiter say. No user code,
	// no system call and no other lock is taken under it.
	mu       sync.Mutex
	idle     entryList[T] // most recently used first
	suspects entryList[T] // idle, but not to be used
	waiters  waiterList[T]
	closed   bool
	stat     Stat
	all      []*entry[T] // live, in no order
	total    int         // opening + live + closing
	opening  int
	closing  int
	epoch    uint64
	clock    int64 // the latest time that anybody has read; at most an upkeep period old
	fails    int   // failed opens in a row
	arrivals int   // opens in a row that have not failed, nor been useless
	nextOpen int64 // no open before this, while fails > 0
	openedAt int64 // when the latest successful open began
	openErr  error // the last failed open's
	noneAt   int64 // since when, if usableLocked is 0, it has been so
	opens    []int64
	retry    *time.Timer // set while an open waits for nextOpen
	upkeep   *time.Timer // set while there is something to keep up
	upkeepID int         // of the timer in upkeep
	hurried  bool        // upkeep runs soon, because somebody waits
	asking   bool        // idle connections are being asked, all together
	round    uint64      // of asking
}

// New makes a pool. It does no I/O: connections are opened when callers or
// MinIdleConns need them. The error names every field that makes no sense.
func New[T any](cfg Config[T]) (*Pool[T], error) {
	yields := cfg.DetectWithin == 0 && cfg.FreshFor == 0
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pool[T]{cfg: cfg, start: time.Now(), guard: cfg.Guard, finished: make(chan struct{})}
	p.closeFn = cfg.closeFunc()
	p.unquestioned, p.freshFor = math.MaxInt64, math.MaxInt64
	if cfg.FreshFor > 0 {
		p.freshFor = int64(cfg.FreshFor)
		p.unquestioned = p.freshFor
	}
	if cfg.MaxConnIdleTime > 0 {
		p.unquestioned = min(p.unquestioned, int64(cfg.MaxConnIdleTime))
	}
	if cfg.Ping != nil {
		p.unquestioned = min(p.unquestioned, int64(cfg.PingPeriod))
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.waitPool.New = func() any { return &waiter[T]{ready: make(chan struct{}, 1)} }
	if t := cfg.Trace; t != nil {
		p.cfg.Trace = new(*t)
		p.observed = t.AcquireDone != nil || t.ReleaseDone != nil || cfg.LeakTimeout > 0
	}
	if p.policy, err = cfg.policy(p.cfg.Trace, yields); err != nil {
		return nil, fmt.Errorf("pool: making a policy: %w", err)
	}
	if p.ledger, err = newLedger(cfg.MaxConns, p.construct, p.end); err != nil {
		return nil, fmt.Errorf("pool: MaxConns %d: %w", cfg.MaxConns, err)
	}
	if p.guard == nil {
		if p.guard, err = health.NewGuard(health.GuardConfig{}); err != nil {
			return nil, fmt.Errorf("pool: making a guard: %w", err)
		}
		p.ownGuard = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dispatchLocked(p.now())
	return p, nil
}

// Guard returns the guard that watches the pool's connections: Config.Guard, or
// the pool's own, which ends with it.
func (p *Pool[T]) Guard() *health.Guard { return p.guard }

// Acquire returns a connection: the most recently used idle one that passes
// its checks, or the next one that is released or opened while ctx lives.
// Callers are served in the order in which they came. The connection must be
// given back with Release or Fail.
//
// The error is ErrClosed or an [*AcquireError]. A connection is never returned
// after ctx has ended.
func (p *Pool[T]) Acquire(ctx context.Context) (Conn[T], error) {
	if p.observed {
		return p.acquireObserved(ctx)
	}
	c, _, err := p.acquire(ctx)
	return c, err
}

func (p *Pool[T]) acquire(ctx context.Context) (c Conn[T], waited bool, err error) {
	now := p.now()
	if ctx.Err() != nil {
		return c, false, p.gaveUp(ctx, now)
	}
	p.mu.Lock()
	e := p.idle.first
	if e == nil {
		return p.acquireSlow(ctx, now, c)
	}
	p.takeLocked(e, now)
	c = Conn[T]{e, e.gen}
	p.mu.Unlock()
	if e.flags.Load() == 0 && (now < e.fastUntil || p.soundsWell(e, now)) {
		e.checkedOut(now)
		return c, false, nil
	}
	return p.acquireSlow(ctx, now, c)
}

// soundsWell is the short form of check: nothing but a peek is due, and it
// finds nothing.
func (p *Pool[T]) soundsWell(e *entry[T], now int64) bool {
	return e.watch != nil && now < e.expires && now-e.idleSince < p.unquestioned && e.watch.Sniff() == nil
}

// acquireSlow goes on with a connection that needs a closer look, or without
// one and with the lock held. It leaves without the lock.
func (p *Pool[T]) acquireSlow(ctx context.Context, now int64, c Conn[T]) (_ Conn[T], waited bool, err error) {
	a := attempt{ctx: ctx, began: now, now: now}
	if c, err = p.search(&a, c); err != nil {
		a.now = p.now()
	}
	if a.waited {
		p.waited.Add(a.now - a.began)
	}
	return c, a.waited, err
}

// checkedOut notes a checkout.
func (e *entry[T]) checkedOut(now int64) {
	e.usedAt, e.fastUntil = now, min(now+trustFor, e.expires)
}

// takeLocked makes an idle entry the caller's.
func (p *Pool[T]) takeLocked(e *entry[T], now int64) {
	p.clock = max(p.clock, now)
	p.idle.remove(e)
	e.state = inUse
	p.stat.Acquired++
	if p.idle.len < p.cfg.MinIdleConns {
		p.dispatchLocked(p.clock)
	}
}

// provenLocked is called when a new connection has been good for something.
// Its arrival alone doesn't end the backoff: a balancer without backends
// accepts everything, and closes it.
func (p *Pool[T]) provenLocked(e *entry[T]) {
	e.unproven = false
	p.fails, p.nextOpen = 0, 0
	p.dispatchLocked(p.clock)
}

// attempt is one call of Acquire that didn't succeed at once.
type attempt struct {
	ctx        context.Context
	began, now int64
	waited     bool
	served     bool // with a connection that failed its check
}

// search looks at c, which the caller owns, and if it is none or not fit, at
// others, until one is fit. It is entered with the lock held if c is none, and
// leaves without it.
func (p *Pool[T]) search(a *attempt, c Conn[T]) (Conn[T], error) {
	for {
		var err error
		if c.e == nil {
			if c, err = p.next(a); err != nil {
				return Conn[T]{}, err
			}
		}
		a.served = true
		v := verdict{ok: a.now < c.e.fastUntil && c.e.flags.Load() == 0}
		if !v.ok {
			v = p.check(a.ctx, c.e, a.now)
		}
		if v.ok && (!v.slow || a.ctx.Err() == nil) {
			if v.slow && c.Err() == ErrClosed {
				p.acquiredNot.Add(1)
				p.giveBack(c.e) // unless Close took it during the check
				return Conn[T]{}, ErrClosed
			}
			c.e.checkedOut(a.now)
			return c, nil
		}
		p.acquiredNot.Add(1)
		ended := a.ctx.Err() != nil
		if v.ok || v.doubtful {
			p.giveBack(c.e)
		} else if ended {
			p.discard(c.e, v.reason, v.err)
		}
		if ended {
			return Conn[T]{}, p.gaveUp(a.ctx, a.began)
		}
		a.now = p.now()
		p.mu.Lock() // until the caller is in the queue again: the slot that gets free is theirs
		if !v.doubtful {
			p.discardLocked(c.e, v.reason, v.err)
		}
		c = Conn[T]{}
	}
}

// next takes the first idle connection or waits for one. It is entered with
// the lock held and leaves without it.
func (p *Pool[T]) next(a *attempt) (c Conn[T], err error) {
	if p.closed {
		p.mu.Unlock()
		return c, ErrClosed
	}
	if e := p.idle.first; e != nil {
		p.takeLocked(e, a.now)
		c = Conn[T]{e, e.gen}
		p.mu.Unlock()
		return c, nil
	}
	c, err = p.wait(a)
	a.now = p.now()
	return c, err
}
