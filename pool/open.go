package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// dispatchLocked starts as many opens as the queue and MinIdleConns call for,
// and the limits and the backoff allow.
func (p *Pool[T]) dispatchLocked(now int64) {
	if p.closed {
		return
	}
	p.freeSlotsLocked(now)
	want := p.waiters.len + max(0, p.cfg.MinIdleConns-p.idle.len)
	for p.opening < min(want, p.cfg.MaxConcurrentOpens) && p.total < p.cfg.MaxConns {
		if p.fails > 0 {
			if now < p.nextOpen {
				p.retryInLocked(p.nextOpen - now)
				break
			}
			p.nextOpen = now + p.backoffLocked()
		}
		p.opening++
		p.total++
		p.opens = append(p.opens, now)
		p.work.Add(1)
		go p.open(now)
	}
	p.keepUpLocked()
}

// backoffLocked draws from the whole window, so that many clients of one
// recovering server spread evenly.
func (p *Pool[T]) backoffLocked() int64 {
	window := p.cfg.MaxOpenBackoff
	if n := p.fails - 1; n < 30 {
		window = min(window, minOpenBackoff<<n)
	}
	return int64(rand.N(window) + 1)
}

func (p *Pool[T]) retryInLocked(in int64) {
	if p.retry != nil && p.retry.Stop() {
		p.retry.Reset(time.Duration(in))
		return
	}
	p.retry = time.AfterFunc(time.Duration(in), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.retry = nil
		p.dispatchLocked(p.now())
	})
}

func (p *Pool[T]) oldestOpenLocked() int64 { return slices.Min(p.opens) }

// open makes one connection and feeds it to the queue.
func (p *Pool[T]) open(began int64) {
	defer p.work.Done()
	e, err := p.ledger.open()
	if err == nil {
		// Accepted and closed at once, by a server that is full or a proxy
		// without a backend: for the pace of opening it is a failure.
		if v := p.peek(e); !v.ok && v.reason == ReasonDead {
			err = fmt.Errorf("%w: %w", errBornDead, v.err)
		}
	}
	var k wake[T]
	p.mu.Lock()
	now := p.tickLocked()
	p.opening--
	i := slices.Index(p.opens, began)
	p.opens = slices.Delete(p.opens, i, i+1)
	fit := false
	switch {
	case e == nil:
		p.total--
		p.failedLocked(err, now, &k)
	case err != nil:
		e.state, e.reason, e.err = closing, ReasonDead, err
		p.closing++
		p.failedLocked(err, now, &k)
	default:
		p.openedAt = max(p.openedAt, began)
		fit = p.arrivedLocked(e, &k)
	}
	p.dispatchLocked(now)
	p.mu.Unlock()
	k.tell()
	if e != nil && !fit {
		p.ledger.destroy(e)
	}
}

// arrivedLocked takes a new connection in. It reports false if that must go
// again.
func (p *Pool[T]) arrivedLocked(e *entry[T], k *wake[T]) bool {
	e.index = len(p.all)
	p.all = append(p.all, e)
	e.state = inUse
	p.stat.Opened++
	p.openErr = nil
	if p.arrivals++; p.arrivals > 1 { // the outage is over, also if nobody has been done with one yet
		p.fails, p.nextOpen = 0, 0
	}
	if why, unfit := p.unfitLocked(e); unfit {
		p.retireLocked(e, why, nil)
		return false
	}
	p.putLocked(e, k)
	return true
}

// failedLocked notes a failed open. Callers wait on, unless waiting is vain.
func (p *Pool[T]) failedLocked(err error, now int64, k *wake[T]) {
	if p.closed {
		return
	}
	p.stat.OpenFailed++
	p.fails++
	p.arrivals = 0
	p.openErr = err
	p.nextOpen = now + p.backoffLocked()
	switch {
	// Permanent lets itself be talked out of it by an error of the closing.
	case len(p.all) == 0 && (health.Permanent(err) || errors.Is(err, health.ErrGuardClosed)):
		p.failWaitersLocked(ErrOpenPermanent, math.MaxInt64, k)
		return
	case p.cfg.FailFast && p.usableLocked() == 0:
		p.failWaitersLocked(ErrOpenFails, math.MaxInt64, k)
		return
	}
	p.failStrandedLocked(now, k)
}

// failStrandedLocked fails the callers without a deadline who have waited for
// DetectWithin while there was no live connection, suspects not counted.
func (p *Pool[T]) failStrandedLocked(now int64, k *wake[T]) {
	horizon := now - int64(p.cfg.DetectWithin)
	if p.usableLocked() > 0 || p.noneAt > horizon {
		return
	}
	p.failWaitersLocked(ErrOpenFails, horizon, k)
}

// failWaitersLocked fails those who came before horizon; unless that is the
// end of time, only those without a deadline.
func (p *Pool[T]) failWaitersLocked(err error, horizon int64, k *wake[T]) {
	for w := p.waiters.first; w != nil; {
		next := w.next
		if w.since <= horizon && (w.deadline == 0 || horizon == math.MaxInt64) {
			p.waiters.remove(w)
			w.err = err
			k.add(w)
		}
		w = next
	}
}

// construct is the ledger's constructor. It runs on a goroutine of its own,
// in a slot of its own.
func (p *Pool[T]) construct(ctx context.Context) (*entry[T], error) {
	p.mu.Lock()
	epoch := p.epoch // of the dial's start: a Reset meanwhile outdates it
	p.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.OpenTimeout, errOpenTimeout)
	defer cancel()
	ctx = health.ContextWithGuard(ctx, p.guard)
	began := p.now()
	t := p.cfg.Trace
	if t != nil && t.OpenStart != nil {
		ctx = t.OpenStart(ctx)
	}
	v, err := p.callOpen(ctx)
	var e *entry[T]
	if err == nil {
		e, err = p.adopt(v, epoch)
	}
	if t != nil && t.OpenDone != nil {
		t.OpenDone(ctx, OpenDone{Took: time.Duration(p.now() - began), Err: err})
	}
	return e, err
}

// callOpen calls Open on a goroutine of its own, which Open may end, as tests do
// with t.FailNow.
func (p *Pool[T]) callOpen(ctx context.Context) (v T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = errGoexit
		err = safely("Open", func() (err error) {
			v, err = p.cfg.Open(ctx)
			return err
		})
	}()
	<-done
	switch {
	case err != nil && context.Cause(ctx) == errOpenTimeout:
		err = openTimeoutError{err}
	case err == nil && isNil(v):
		err = errNoConn
	}
	return v, err
}

// isNil also knows nil pointers in interfaces, a frequent slip of functions
// that return one.
func isNil[T any](v T) bool {
	r := reflect.ValueOf(any(v))
	switch r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.Func, reflect.Slice:
		return r.IsNil()
	}
	return false
}

// adopt makes an entry of a new connection and lets the guard watch it.
func (p *Pool[T]) adopt(v T, epoch uint64) (*entry[T], error) {
	now := p.now()
	e := &entry[T]{
		pool: p, value: v, epoch: epoch, state: opening, unproven: true,
		born: now, usedAt: now, provenAt: now, idleSince: now, expires: p.expiry(now),
	}
	e.fastUntil = min(now+trustFor, e.expires)
	if p.cfg.LeakTimeout > 0 {
		e.leak = &leak{}
	}
	err := safely("NetConn", func() (err error) {
		if e.conn = p.cfg.netConn(v); e.conn == nil {
			return nil
		}
		watched := e.conn
		if p.cfg.AllowUnread {
			watched = opaque{watched}
		}
		e.watch, err = p.guard.Watch(watched, p.policy, func(w *health.Watch) { p.told(e, w) })
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("pool: watching the connection: %w", err)
		}
		return nil
	})
	if err != nil {
		e.abortive = true
		return nil, errors.Join(err, p.closeConn(e))
	}
	return e, nil
}

// opaque hides from the guard what the bytes on a connection mean, as TLS does:
// it then looks for an end behind them.
type opaque struct{ net.Conn }

func (o opaque) NetConn() net.Conn { return o.Conn }

// expiry draws the end of a lifetime that begins now.
func (p *Pool[T]) expiry(now int64) int64 {
	if p.cfg.MaxConnLifetime <= 0 {
		return math.MaxInt64
	}
	left := int64(lifetime(p.cfg.MaxConnLifetime, p.cfg.MaxConnLifetimeJitter))
	if left > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + left
}

func lifetime(limit, jitter time.Duration) time.Duration {
	if jitter <= 0 {
		return limit
	}
	return limit - rand.N(jitter)
}

func (cfg *Config[T]) netConn(v T) net.Conn {
	if cfg.NetConn != nil {
		return cfg.NetConn(v)
	}
	switch c := any(v).(type) {
	case net.Conn:
		return c
	case interface{ NetConn() net.Conn }:
		return c.NetConn()
	}
	return nil
}
