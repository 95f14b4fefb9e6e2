package pool

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// freshFor is how long after a checkout the next one needs no check. A caller
// that uses a connection this often would find out as soon as a peek would.
const freshFor = int64(time.Millisecond)

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
	ownGuard bool
	ledger   ledger[T]
	observed bool // Acquire and Release have hooks to call or stacks to take
	waitPool sync.Pool
	closeFn  func(T) error
	ctx      context.Context // ends with the pool
	cancel   context.CancelFunc
	finished chan struct{} // closed when Close has nothing left to wait for
	work     sync.WaitGroup

	acquiredSlow atomic.Int64 // Stat.Acquired, but for those in stat
	waited       atomic.Int64 // Stat.WaitDuration

	// mu guards the fields below and what entry and waiter say. No user code,
	// no system call and no other lock is taken under it.
	mu       sync.Mutex
	idle     entryList[T] // most recently used first
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
	nextOpen int64 // no open before this, while fails > 0
	openErr  error // the last failed open's
	noneAt   int64 // since when there has been no live connection
	opens    []int64
	retry    *time.Timer // set while an open waits for nextOpen
	upkeep   *time.Timer // set while there is something to keep up
	upkeepID int         // of the timer in upkeep
	hurried  bool        // upkeep runs soon, because somebody waits
}

// New makes a pool. It does no I/O: connections are opened when callers or
// MinIdleConns need them. The error names every field that makes no sense.
func New[T any](cfg Config[T]) (*Pool[T], error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pool[T]{cfg: cfg, start: time.Now(), guard: cfg.Guard, finished: make(chan struct{})}
	p.closeFn = cfg.closeFunc()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.waitPool.New = func() any { return &waiter[T]{ready: make(chan struct{}, 1)} }
	if t := cfg.Trace; t != nil {
		p.cfg.Trace = new(*t)
		p.observed = t.AcquireDone != nil || t.ReleaseDone != nil || cfg.LeakTimeout > 0
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
	if e := p.idle.first; e != nil && now < e.fastUntil && !e.dead.Load() {
		p.takeLocked(e, now)
		p.stat.Acquired++
		e.checkedOut(now)
		c = Conn[T]{e, e.gen}
		p.mu.Unlock()
		return c, false, nil
	}
	a := attempt{ctx: ctx, began: now, now: now}
	if c, err = p.acquireSlow(&a); err == nil {
		p.acquiredSlow.Add(1)
	} else {
		a.now = p.now()
	}
	if a.waited {
		p.waited.Add(a.now - a.began)
	}
	return c, a.waited, err
}

// checkedOut notes a checkout.
func (e *entry[T]) checkedOut(now int64) {
	e.usedAt, e.fastUntil = now, min(now+freshFor, e.expires)
}

// takeLocked makes an idle entry the caller's.
func (p *Pool[T]) takeLocked(e *entry[T], now int64) {
	p.clock = max(p.clock, now)
	p.idle.remove(e)
	e.state = inUse
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
}

// acquireSlow is entered with the lock held and leaves without it.
func (p *Pool[T]) acquireSlow(a *attempt) (Conn[T], error) {
	for {
		if p.closed {
			p.mu.Unlock()
			return Conn[T]{}, ErrClosed
		}
		var c Conn[T]
		if e := p.idle.first; e != nil {
			p.takeLocked(e, a.now)
			c = Conn[T]{e, e.gen}
			p.mu.Unlock()
		} else {
			var err error
			if c, err = p.wait(a); err != nil {
				return Conn[T]{}, err
			}
			a.now = p.now()
		}
		e := c.e
		v := verdict{ok: a.now < e.fastUntil && !e.dead.Load()}
		if !v.ok {
			v = p.check(a.ctx, e, a.now)
		}
		if v.ok {
			e.checkedOut(a.now)
			if !v.pinged {
				return c, nil
			}
		} else {
			p.discard(e, v.reason, v.err)
		}
		if a.ctx.Err() != nil {
			if v.ok {
				p.giveBack(e)
			}
			return Conn[T]{}, p.gaveUp(a.ctx, a.began)
		}
		if v.ok {
			return c, nil
		}
		a.now = p.now()
		p.mu.Lock()
	}
}

// wait queues the caller. It is entered with the lock held and leaves without
// it.
func (p *Pool[T]) wait(a *attempt) (Conn[T], error) {
	newcomer := !a.waited
	if newcomer && p.cfg.MaxWaiters >= 0 && p.waiters.len >= p.cfg.MaxWaiters {
		p.stat.Refused++
		err := p.acquireErrorLocked(ErrTooManyWaiters, a.began)
		p.mu.Unlock()
		return Conn[T]{}, err
	}
	w := p.waitPool.Get().(*waiter[T])
	w.since, w.deadline = a.began, 0
	if d, ok := a.ctx.Deadline(); ok {
		w.deadline = max(1, a.now+int64(time.Until(d)))
	}
	p.waiters.push(w, newcomer)
	if newcomer {
		a.waited = true
		p.stat.Waits++
	}
	p.clock = max(p.clock, a.now)
	p.dispatchLocked(p.clock)
	p.mu.Unlock()

	if done := a.ctx.Done(); done == nil {
		<-w.ready
	} else {
		select {
		case <-w.ready:
		case <-done:
			if p.leave(w) {
				return Conn[T]{}, p.gaveUp(a.ctx, a.began)
			}
			<-w.ready
		}
	}
	c, err := Conn[T]{w.entry, w.gen}, w.err
	w.reset()
	p.waitPool.Put(w)
	switch {
	case err != nil:
		return Conn[T]{}, p.waitFailed(a, err)
	case a.ctx.Err() != nil:
		p.giveBack(c.e)
		return Conn[T]{}, p.gaveUp(a.ctx, a.began)
	}
	return c, nil
}

// leave takes w out of the queue. It reports false if w was served already.
func (p *Pool[T]) leave(w *waiter[T]) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.queued {
		return false
	}
	p.waiters.remove(w)
	p.waitPool.Put(w)
	return true
}

// waitFailed completes the error that a waiter was told.
func (p *Pool[T]) waitFailed(a *attempt, err error) error {
	switch err {
	case ErrClosed:
		return err
	case context.DeadlineExceeded:
		return p.gaveUp(a.ctx, a.began)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acquireErrorLocked(err, a.began)
}

// gaveUp is the error of a caller whose context has ended, or whose deadline
// has passed before the context's own timer noticed.
func (p *Pool[T]) gaveUp(ctx context.Context, began int64) error {
	err := ctx.Err()
	if err == nil {
		err = context.DeadlineExceeded
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stat.GaveUp++
	return p.acquireErrorLocked(err, began)
}

func (p *Pool[T]) acquireErrorLocked(err error, began int64) error {
	return &AcquireError{Err: err, OpenErr: p.openErr, Waited: time.Duration(p.now() - began), Stat: p.statLocked()}
}

// putLocked gives a live entry that nobody holds to the first waiter in time,
// or puts it with the idle ones.
func (p *Pool[T]) putLocked(e *entry[T], k *wake[T]) {
	now := p.clock
	e.idleSince = max(now, e.usedAt)
	for w := p.waiters.first; w != nil; w = p.waiters.first {
		p.waiters.remove(w)
		k.add(w)
		if w.deadline != 0 {
			now = p.tickLocked()
		}
		if w.deadline == 0 || now < w.deadline {
			e.state = inUse
			w.entry, w.gen = e, e.gen
			return
		}
		w.err = context.DeadlineExceeded
	}
	e.state = idle
	p.idle.pushFront(e)
}

// giveBack returns an entry that its holder never used.
func (p *Pool[T]) giveBack(e *entry[T]) {
	var k wake[T]
	p.mu.Lock()
	if e.state != inUse { // Close took it meanwhile
		p.mu.Unlock()
		return
	}
	e.gen++
	if why, unfit := p.unfitLocked(e); unfit {
		p.retireLocked(e, why, nil)
		p.mu.Unlock()
		p.ledger.destroy(e)
		return
	}
	since := e.idleSince
	p.putLocked(e, &k)
	e.idleSince = since
	p.mu.Unlock()
	k.tell()
}

// tickLocked reads the clock for everybody.
func (p *Pool[T]) tickLocked() int64 {
	p.clock = p.now()
	return p.clock
}

// unfitLocked reports why an entry must not be handed out again.
func (p *Pool[T]) unfitLocked(e *entry[T]) (Reason, bool) {
	switch {
	case p.closed:
		return ReasonShutdown, true
	case e.dead.Load():
		return ReasonDead, true
	case e.epoch != p.epoch:
		return ReasonReset, true
	case p.clock >= e.expires:
		return ReasonLifetime, true
	}
	return 0, false
}
