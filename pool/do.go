package pool

import (
	"context"
	"errors"
	"runtime"
	"time"
)

// Do acquires a connection, calls f with it and gives it back.
//
// If the connection can take deadlines, or the network connection below it (see
// Config.NetConn), ctx rules its I/O: the deadline is set before f and cleared
// after it, and when ctx is cancelled reads and writes end at once. A connection is closed, not given back, when ctx ended before
// f did (the rest of a reply may be under way), when f returned an error that
// [Conn.Fail] closes it for, or when f panicked. f must not keep the
// connection.
//
// Do calls f at most once and returns its error as it is, or Acquire's.
func (p *Pool[T]) Do(ctx context.Context, f func(context.Context, T) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			p.release(c, interrupted{})
		}
	}()
	b := bind(ctx, c.e)
	err = f(ctx, c.e.value)
	returned = true
	if b.end(ctx) {
		p.release(c, errors.Join(interrupted{}, err))
		return err
	}
	if err != nil {
		p.release(c, err)
		return err
	}
	c.Release()
	return nil
}

// interrupted is the error that makes release close a connection whatever
// Classify says: a net.Error, so that it counts as I/O.
type interrupted struct{}

func (interrupted) Error() string   { return "pool: the use of the connection was interrupted" }
func (interrupted) Timeout() bool   { return false }
func (interrupted) Temporary() bool { return false }

type deadliner interface{ SetDeadline(time.Time) error }

// binding ties I/O on a connection to a context.
type binding struct {
	conn deadliner   // has the context's deadline, to be cleared; nil if none
	stop func() bool // of what waits for the context's end; nil if nothing does
}

func bind[T any](ctx context.Context, e *entry[T]) (b binding) {
	if ctx.Done() == nil {
		return b
	}
	conn, ok := any(e.value).(deadliner)
	if !ok && e.conn == nil {
		return b
	}
	if !ok {
		conn = e.conn
	}
	if deadline, ok := ctx.Deadline(); ok {
		b.conn = conn
		conn.SetDeadline(deadline) // a connection too broken for this will say so in f
	}
	b.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return b
}

// end undoes the binding and reports whether the context has ended.
func (b binding) end(ctx context.Context) bool {
	if b.stop != nil && !b.stop() || ctx.Err() != nil {
		return true
	}
	if b.conn != nil {
		b.conn.SetDeadline(time.Time{})
	}
	return false
}

// acquireObserved is Acquire for a pool with hooks or leak reports.
func (p *Pool[T]) acquireObserved(ctx context.Context) (Conn[T], error) {
	began := p.now()
	c, waited, err := p.acquire(ctx)
	if l := p.leakOf(c); l != nil {
		var pcs [len(leak{}.pcs)]uintptr
		n := runtime.Callers(3, pcs[:])
		p.mu.Lock()
		*l = leak{since: p.now(), n: n, pcs: pcs}
		p.mu.Unlock()
	}
	if t := p.cfg.Trace; t.AcquireDone != nil {
		t.AcquireDone(ctx, AcquireDone{Wait: time.Duration(p.now() - began), Waited: waited, Err: err})
	}
	return c, err
}

func (p *Pool[T]) leakOf(c Conn[T]) *leak {
	if c.e == nil {
		return nil
	}
	return c.e.leak
}
