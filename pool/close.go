package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// died is the guard's word that a connection is dead. If nobody uses it, it
// leaves the pool here; otherwise when its holder gives it back.
func (p *Pool[T]) died(e *entry[T], cause error) {
	e.flags.Or(flagDead) // before the lock: who holds that may be about to hand e out
	var k wake[T]
	p.mu.Lock()
	if e.state != idle && e.state != suspect {
		p.mu.Unlock()
		return
	}
	now := p.tickLocked()
	p.unlistLocked(e)
	p.retireLocked(e, deathBy(cause), cause)
	if e.useless(now) {
		p.failedLocked(errBornDead, now, &k)
	}
	p.dispatchLocked(now)
	p.mu.Unlock()
	k.tell()
	p.ledger.destroy(e)
}

// unlistLocked takes an entry that nobody holds out of its list.
func (p *Pool[T]) unlistLocked(e *entry[T]) {
	if e.state == suspect {
		p.suspects.remove(e)
	} else {
		p.idle.remove(e)
	}
}

// retireLocked takes an entry that is in no list any more out of the pool for
// good. The caller passes it to the ledger once the lock is released.
func (p *Pool[T]) retireLocked(e *entry[T], why Reason, err error) {
	usable := e.state != suspect
	e.state = closing
	e.gen++
	e.reason, e.err = why, err
	p.closing++
	p.stat.closed[why]++
	last := p.all[len(p.all)-1]
	p.all[e.index], last.index = last, e.index
	p.all[len(p.all)-1] = nil
	p.all = p.all[:len(p.all)-1]
	if now := p.now(); usable && !e.useless(now) {
		p.noneAt = now // if it was the last
	}
}

// discard takes an entry out of the pool that the caller owns.
func (p *Pool[T]) discard(e *entry[T], why Reason, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discardLocked(e, why, err)
}

func (p *Pool[T]) discardLocked(e *entry[T], why Reason, err error) {
	if e.state == inUse { // else Close took it meanwhile
		p.retireLocked(e, why, err)
		p.ledger.destroy(e) // only starts a goroutine
	}
}

// end is the ledger's destructor: it closes the connection, on a goroutine of
// its own, before its slot is freed.
func (p *Pool[T]) end(e *entry[T]) {
	if (e.reason == ReasonDead || e.reason == ReasonSilent) && e.err == nil {
		e.err = e.cause()
	}
	done := ConnClosed{Reason: e.reason, Err: e.err, Age: time.Duration(p.now() - e.born)}
	if e.err != nil {
		done.Class = p.classify(e.err)
	}
	if e.watch != nil {
		e.watch.Stop()
	}
	done.CloseErr = p.closeConn(e)
	if t := p.cfg.Trace; t != nil && t.ConnClosed != nil {
		t.ConnClosed(done)
	}
	p.gone(p.now())
}

// gone is called when a connection no longer exists.
func (p *Pool[T]) gone(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing--
	p.total--
	p.dispatchLocked(now)
}

// closeConn closes politely within CloseTimeout, then hard. A dead connection
// has nobody to be polite to, but its Close may still have things to free.
func (p *Pool[T]) closeConn(e *entry[T]) error {
	hard := e.abortive || e.reason == ReasonSilent || e.reason == ReasonDead && !errors.Is(e.err, io.EOF) // after a FIN, a FIN is the right answer
	end := func() error {
		if hard {
			sever(e.conn)
		}
		return p.closeFn(e.value)
	}
	if p.closesAtOnce(e) {
		return end()
	}
	closed := p.inBackground(end)
	if e.conn == nil {
		return <-closed
	}
	timeout := time.NewTimer(p.cfg.CloseTimeout)
	defer timeout.Stop()
	select {
	case err := <-closed:
		return err
	case <-timeout.C:
	}
	severed := p.inBackground(func() error { sever(e.conn); return nil })
	timeout.Reset(p.cfg.CloseTimeout)
	select {
	case <-severed:
	case <-timeout.C: // not a socket, or it wouldn't take so long
	}
	return errCloseTimeout
}

// inBackground calls user code that may never return, panic, or end its
// goroutine. Close of the pool waits for it.
func (p *Pool[T]) inBackground(f func() error) <-chan error {
	done := make(chan error, 1)
	p.work.Go(func() {
		err := errGoexit
		defer func() { done <- err }()
		err = safely("Close", f)
	})
	return done
}

// closesAtOnce reports whether closing is only the socket's own Close, which
// never waits.
func (p *Pool[T]) closesAtOnce(e *entry[T]) bool {
	if p.cfg.Close != nil {
		return false
	}
	switch any(e.value).(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// sever closes the socket below c at once, without waiting for what is
// unsent; a peer that is still there reads a reset.
func sever(c net.Conn) {
	for range 8 {
		if l, ok := c.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0) // on a socket without that, Close is all there is
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok || inner.NetConn() == nil {
			break
		}
		c = inner.NetConn()
	}
	if c != nil {
		c.Close() // its owner's own Close reports what there is to report
	}
}

func (cfg *Config[T]) closeFunc() func(T) error {
	if cfg.Close != nil {
		return cfg.Close
	}
	netConn, timeout := cfg.NetConn, cfg.CloseTimeout
	return func(v T) error {
		switch c := any(v).(type) {
		case io.Closer:
			return ignoreClosed(c.Close())
		case ctxCloser:
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			return ignoreClosed(c.Close(ctx))
		}
		if c := netConn(v); c != nil { // New has made sure that there is one
			return ignoreClosed(c.Close())
		}
		return nil
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Reset declares all connections outdated, also those still being opened:
// idle ones are closed at once, the others when they come back, and what is
// needed is opened anew.
func (p *Pool[T]) Reset() {
	p.mu.Lock()
	epoch := p.epoch
	p.mu.Unlock()
	p.reset(epoch, nil)
}

// reset ends an epoch, unless that has ended already.
func (p *Pool[T]) reset(epoch uint64, cause error) {
	p.mu.Lock()
	if epoch != p.epoch {
		p.mu.Unlock()
		return
	}
	p.epoch++
	p.stat.Resets++
	out := p.takeIdleLocked(ReasonReset)
	p.dispatchLocked(p.now())
	p.mu.Unlock()
	p.destroyAll(out)
	if t := p.cfg.Trace; t != nil && t.Reset != nil {
		t.Reset(cause)
	}
}

// RetireIf declares the connections outdated for which outdated returns true, as
// Reset does with all, but for those still being opened: new addresses of a name
// may be a reason, or old credentials. The reason is what Stat and Trace are told,
// as in [Conn.Retire]. It returns how many they were. outdated is called without a
// lock, and may be called for connections that are in use.
func (p *Pool[T]) RetireIf(why Reason, outdated func(T) bool) int {
	if why >= reasonCount {
		why = ReasonLifetime
	}
	p.mu.Lock()
	all := slices.Clone(p.all)
	p.mu.Unlock()
	all = slices.DeleteFunc(all, func(e *entry[T]) bool { return !outdated(e.value) })
	out := all[:0]
	n := 0
	p.mu.Lock()
	for _, e := range all {
		if e.state == closing || e.has(flagOutdated) {
			continue
		}
		n++
		e.outdateLocked(why)
		if e.state == idle || e.state == suspect {
			p.unlistLocked(e)
			p.retireLocked(e, why, nil)
			out = append(out, e)
		}
	}
	p.dispatchLocked(p.now())
	p.mu.Unlock()
	p.destroyAll(out)
	return n
}

// takeIdleLocked retires all connections that nobody holds.
func (p *Pool[T]) takeIdleLocked(why Reason) []*entry[T] {
	out := make([]*entry[T], 0, p.idle.len+p.suspects.len)
	for _, l := range []*entryList[T]{&p.idle, &p.suspects} {
		for e := l.first; e != nil; e = l.first {
			l.remove(e)
			p.retireLocked(e, why, nil)
			out = append(out, e)
		}
	}
	return out
}

func (p *Pool[T]) destroyAll(es []*entry[T]) {
	for _, e := range es {
		p.ledger.destroy(e)
	}
}

// Close ends the pool. Waiting callers get ErrClosed at once, running opens
// are cancelled, idle connections are closed. Close then waits for those in
// use to be given back, and for calls of Config's functions and hooks to end
// (so don't call it from one); if ctx ends first it closes the connections
// hard under their holders and returns an error that says how many there were.
// It may be called again, and concurrently; the least patient call decides.
func (p *Pool[T]) Close(ctx context.Context) error {
	var k wake[T]
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	out := p.takeIdleLocked(ReasonShutdown)
	for w := p.waiters.first; w != nil; w = p.waiters.first {
		p.waiters.remove(w)
		w.err = ErrClosed
		k.add(w)
	}
	stopTimer(&p.retry)
	stopTimer(&p.upkeep)
	p.mu.Unlock()
	k.tell()
	p.destroyAll(out)
	if first {
		p.cancel()
		go p.finish()
	}
	select {
	case <-p.finished:
		return nil
	default:
	}
	select {
	case <-p.finished:
		return nil
	case <-ctx.Done():
		return p.abandon(ctx)
	}
}

// finish waits for the last connection and everything that was started.
func (p *Pool[T]) finish() {
	p.ledger.close()
	p.work.Wait()
	if p.ownGuard {
		p.guard.Close()
	}
	close(p.finished)
}

// abandon closes the connections that are still held.
func (p *Pool[T]) abandon(ctx context.Context) error {
	p.mu.Lock()
	out := make([]*entry[T], 0, len(p.all))
	for len(p.all) > 0 {
		e := p.all[len(p.all)-1]
		e.abortive = true
		p.retireLocked(e, ReasonShutdown, nil)
		out = append(out, e)
	}
	opening, closing := p.opening, p.closing-len(out)
	p.mu.Unlock()
	p.destroyAll(out)
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != err {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	var left []string
	for _, l := range []struct {
		n    int
		what string
	}{{len(out), "in use (they were cut off)"}, {opening, "being opened"}, {closing, "being closed"}} {
		if l.n > 0 {
			left = append(left, fmt.Sprintf("%d %s", l.n, l.what))
		}
	}
	if left == nil {
		left = []string{"none left, but calls of Config's functions or hooks still running"}
	}
	return fmt.Errorf("pool: Close did not wait for all connections: %s: %w", strings.Join(left, ", "), err)
}

func stopTimer(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}
