package httpclient

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/pool"
)

// waiter is a request that waits for room on a connection, or for a connection
// of its own.
type waiter struct {
	served chan struct{} // capacity 1
	turn   chan struct{} // to ask the pool; capacity 1
	since  int64         // as of acquire
	begun  int64

	// Under the host's lock.
	elem     *list.Element // nil: not in the queue any more
	promoted bool
	cancel   context.CancelFunc // ends the asking
	stranded *time.Timer        // of those without a deadline

	conn *conn
	err  error
}

// acquire finds a connection for a request. It is alive as far as anybody knows,
// and if since isn't zero, opened or asked since then.
func (h *host) acquire(ctx context.Context, since int64) (*conn, error) {
	if protocol(h.speaks.Load()) == exclusive {
		return h.own(ctx, since)
	}
	h.mu.Lock()
	now := h.client.now()
	cn := h.joinLocked(since, now)
	if cn == nil && since > 0 && len(h.shared) > 0 {
		h.proveLocked(ctx, since)
		now = h.client.now()
		cn = h.joinLocked(since, now)
	}
	if cn != nil {
		h.mu.Unlock()
		return cn, nil
	}
	if h.leases+h.waiters.Len()+h.acquiring == 0 { // nobody could make room
		h.acquiring++
		h.first++
		h.mu.Unlock()
		cn, err := h.own(ctx, since)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.first--
		h.acquiredLocked(err)
		return cn, err
	}
	if limit := h.client.cfg.MaxWaitersPerHost; limit > 0 && h.waiters.Len() >= limit {
		h.mu.Unlock()
		return nil, unsent{fmt.Errorf("%w for a connection to %v: %d", ErrTooManyWaiters, h.name, limit)}
	}
	w := h.queueLocked(ctx, since, now)
	h.mu.Unlock()
	return h.wait(ctx, w)
}

func (h *host) queueLocked(ctx context.Context, since, now int64) *waiter {
	w := &waiter{served: make(chan struct{}, 1), turn: make(chan struct{}, 1), since: since, begun: now}
	w.elem = h.waiters.PushBack(w)
	h.waiting.Add(1)
	if _, ok := ctx.Deadline(); !ok {
		w.stranded = time.AfterFunc(h.client.within, func() { h.strand(w) })
	}
	h.promoteLocked(now)
	return w
}

func (h *host) wait(ctx context.Context, w *waiter) (*conn, error) {
	select {
	case <-w.turn:
		return h.waitForOwn(ctx, w)
	case <-w.served:
	case <-ctx.Done():
	}
	h.mu.Lock()
	left := h.leaveLocked(w)
	if w.promoted { // and hasn't made use of it
		h.acquiring--
		h.dispatchLocked()
	}
	h.mu.Unlock()
	switch {
	case left:
		return nil, unsent{fmt.Errorf("no room on a connection in time: %w", context.Cause(ctx))}
	case w.conn != nil && ctx.Err() != nil:
		w.conn.unused()
		return nil, unsent{context.Cause(ctx)}
	}
	return w.conn, w.err
}

// waitForOwn asks the pool for a connection, until there is room elsewhere.
func (h *host) waitForOwn(ctx context.Context, w *waiter) (*conn, error) {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	if w.cancel = cancel; w.elem == nil {
		cancel()
	}
	h.mu.Unlock()
	cn, err := h.own(own, w.since)
	h.mu.Lock()
	left := h.leaveLocked(w)
	h.acquiredLocked(err)
	h.mu.Unlock()
	if left {
		return cn, err
	}
	if cn != nil { // one too many
		cn.unused()
	}
	return w.conn, w.err
}

// acquiredLocked is called when one who asked the pool has its answer. Some
// errors hold for all who wait.
func (h *host) acquiredLocked(err error) {
	h.acquiring--
	if errors.Is(err, pool.ErrOpenPermanent) || errors.Is(err, pool.ErrClosed) ||
		h.client.cfg.FailFast && errors.Is(err, pool.ErrOpenFails) {
		h.failLocked(err)
	}
	h.dispatchLocked()
}

// strand ends the wait of one without a deadline, who has waited for
// DetectWithin, if there has been no connection for as long, and opening fails.
func (h *host) strand(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.elem == nil {
		return
	}
	within := h.client.within
	now := h.client.now()
	if s := h.pool.Stat(); h.openErr != nil && s.InUse+s.Idle == 0 && now-h.liveUntil >= int64(within) {
		h.serveLocked(w, nil, &pool.AcquireError{Err: pool.ErrOpenFails, OpenErr: h.openErr, Waited: time.Duration(now - w.begun), Stat: s})
		return
	}
	w.stranded.Reset(within / 20)
}

// leaveLocked takes w out of the queue. It reports false if it was served.
func (h *host) leaveLocked(w *waiter) bool {
	if w.elem == nil {
		return false
	}
	h.waiters.Remove(w.elem)
	w.elem = nil
	h.waiting.Add(-1)
	if w.stranded != nil {
		w.stranded.Stop()
	}
	return true
}

// serveLocked ends the wait of one in the queue.
func (h *host) serveLocked(w *waiter, cn *conn, err error) {
	h.leaveLocked(w)
	w.conn, w.err = cn, err
	if w.cancel != nil {
		w.cancel()
	}
	w.served <- struct{}{}
}

// failLocked ends all waits.
func (h *host) failLocked(err error) {
	for e := h.waiters.Front(); e != nil; e = h.waiters.Front() {
		h.serveLocked(e.Value.(*waiter), nil, err)
	}
}

// dispatch gives the waiting what room there is.
func (h *host) dispatch() {
	if h.waiting.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dispatchLocked()
}

func (h *host) dispatchLocked() {
	now := h.client.now()
	for e := h.waiters.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		if cn := h.joinLocked(w.since, now); cn != nil {
			h.serveLocked(w, cn, nil)
		} else if w.since == 0 {
			break // else, only certain connections are good enough for this one
		}
	}
	h.promoteLocked(now)
}

// promoteLocked has as many of the waiting ask the pool as connections are
// needed for all of them. What a new host speaks is found out by one. It is asked
// as of the moment at which they found no room: a connection that has come to be
// settled since then has room for them, and they are looked after.
func (h *host) promoteLocked(now int64) {
	want := h.waiters.Len()
	switch protocol(h.speaks.Load()) {
	case unknown:
		want = min(want, 1)
	case shared:
		per := max(h.limit, 1)
		want = (want + per - 1) / per
		// Those whose limit isn't known yet will take as many.
		for i := 0; want > 0 && i < len(h.shared); i++ {
			if h.settleLocked(h.shared[i], now) {
				want--
			}
		}
	}
	for e := h.waiters.Front(); e != nil && h.acquiring < want; e = e.Next() {
		if w := e.Value.(*waiter); !w.promoted {
			w.promoted = true
			h.acquiring++
			w.turn <- struct{}{}
		}
	}
}

// joinLocked finds room on a connection that others use.
func (h *host) joinLocked(since, now int64) *conn {
	for i := len(h.shared) - 1; i >= 0; i-- {
		cn := h.shared[i]
		if cn.proven.Load() < since {
			continue
		}
		joined, full := cn.join(now)
		switch {
		case joined:
			return cn
		case full:
			h.shared = slices.Delete(h.shared, i, i+1)
			cn.listed = false
		default:
			h.settleLocked(cn, now)
		}
	}
	return nil
}

// proveLocked asks the peers of the connections that are in use, without the
// lock.
func (h *host) proveLocked(ctx context.Context, since int64) {
	conns := slices.Clone(h.shared)
	h.mu.Unlock()
	defer h.mu.Lock()
	for _, cn := range conns {
		if ok, err := cn.prove(ctx, since); ok || err != nil {
			return // one is enough
		}
	}
}

// settleLocked reports whether the limit of a connection isn't known yet, and
// sees to it that the waiting are looked after when it should be.
func (h *host) settleLocked(cn *conn, now int64) bool {
	at := cn.settled()
	if now >= at {
		return false
	}
	if h.settling == nil {
		h.settling = time.AfterFunc(time.Duration(at-now), func() {
			h.mu.Lock()
			h.settling = nil
			h.mu.Unlock()
			h.dispatch()
		})
	}
	return !cn.knows()
}

// learn takes note of a server's limit of streams.
func (h *host) learn(limit int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit = limit
	h.dispatchLocked()
}

// own checks a connection out of the pool.
func (h *host) own(ctx context.Context, since int64) (*conn, error) {
	for {
		c, err := h.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		cn := c.Value()
		if ok, err := cn.prove(ctx, since); !ok {
			c.Release() // the guard has told the pool what to do with it
			if err != nil {
				return nil, unsent{err}
			}
			continue
		}
		if cn.begin(c) {
			h.leased(cn)
			return cn, nil
		}
	}
}

// leased is called when a connection got its first user.
func (h *host) leased(cn *conn) {
	if !cn.shares {
		h.speaks.Store(uint32(exclusive))
		h.dispatch()
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.speaks.Store(uint32(shared))
	h.leases++
	h.listLocked(cn)
	setDefault(&h.limit, unknownLimit)
	if h.waiters.Len() > 0 {
		h.dispatchLocked()
	}
}

func (h *host) listLocked(cn *conn) {
	if !cn.listed {
		cn.listed = true
		h.shared = append(h.shared, cn)
	}
}

// relist is called when a connection that was full has room again.
func (h *host) relist(cn *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !cn.idle() {
		h.listLocked(cn)
	}
}

// unshare is called when a connection has lost its last user.
func (h *host) unshare(cn *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leases--
	if cn.listed {
		cn.listed = false
		h.shared = slices.DeleteFunc(h.shared, func(other *conn) bool { return other == cn })
	}
}
