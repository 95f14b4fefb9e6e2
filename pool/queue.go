package pool

import (
	"context"
	"fmt"
	"time"
)

// wait queues the caller. It is entered with the lock held and leaves without
// it.
func (p *Pool[T]) wait(a *attempt) (Conn[T], error) {
	newcomer := !a.waited && !a.served
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
	if !a.waited {
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
		p.acquiredNot.Add(1)
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
// or puts it with the idle ones. A suspect goes to its like.
func (p *Pool[T]) putLocked(e *entry[T], k *wake[T]) {
	now := p.clock
	e.idleSince = max(now, e.usedAt)
	if e.has(flagSuspect) {
		p.setAsideLocked(e)
		return
	}
	for w := p.waiters.first; w != nil; w = p.waiters.first {
		p.waiters.remove(w)
		k.add(w)
		if w.deadline != 0 {
			now = p.tickLocked()
		}
		if w.deadline == 0 || now < w.deadline {
			e.state = inUse
			p.stat.Acquired++
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
	p.putBackLocked(e, &k)
	p.mu.Unlock()
	k.tell()
}

// putBackLocked is putLocked for an entry that wasn't used.
func (p *Pool[T]) putBackLocked(e *entry[T], k *wake[T]) {
	since := e.idleSince
	p.putLocked(e, k)
	e.idleSince = since
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
	case e.has(flagDead):
		if e.watch == nil {
			return ReasonDead, true
		}
		return deathBy(e.watch.Cause()), true
	case e.has(flagOutdated):
		return e.outdatedBy, true
	case e.epoch != p.epoch:
		return ReasonReset, true
	case p.clock >= e.expires:
		return ReasonLifetime, true
	}
	return 0, false
}
