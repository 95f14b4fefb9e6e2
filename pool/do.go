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
// after it, and when ctx is cancelled reads and writes end at once. A
// connection is closed, not given back, when ctx ended before f did (the rest
// of a reply may be under way), when f returned an error that [Conn.Fail]
// closes it for, or when f panicked. f must not keep the connection.
//
// Do calls f at most once and returns its error as it is, or Acquire's; with one
// addition: if the guard has ended the connection under f, because its peer was
// silent, the reset that f ran into is joined with the [*health.SilenceError]
// that explains it, so that [health.Classify] says Path.
func (p *Pool[T]) Do(ctx context.Context, f func(context.Context, T) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	b := bind(ctx, c.e)
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			b.release()
			p.release(c, interrupted{})
		}
	}()
	err = f(ctx, c.e.value)
	returned = true
	if err != nil {
		err, _ = c.e.severed(p.classify(err), err)
	}
	if b.end(ctx) {
		p.release(c, errors.Join(interrupted{context.Cause(ctx)}, err))
	} else if err != nil {
		p.release(c, err)
	} else if v := p.peek(c.e); !v.ok { // the rest of a reply, or an end
		p.release(c, interrupted{v.err})
	} else {
		c.Release()
	}
	return err
}

// interrupted is the error that makes release close a connection whatever
// Classify says: a net.Error, so that it counts as I/O.
type interrupted struct{ cause error }

func (i interrupted) Error() string {
	if i.cause == nil {
		return "pool: the use of the connection was interrupted"
	}
	return "pool: the use of the connection was interrupted: " + i.cause.Error()
}
func (i interrupted) Unwrap() error { return i.cause }
func (interrupted) Timeout() bool   { return false }
func (interrupted) Temporary() bool { return false }

type deadliner interface{ SetDeadline(time.Time) error }

// binding ties I/O on a connection to a context.
type binding struct {
	conn     deadliner   // takes deadlines; nil if none does
	deadline time.Time   // the context's; zero if it has none
	stop     func() bool // of what waits for the context's end; nil if nothing does
}

func bind[T any](ctx context.Context, e *entry[T]) (b binding) {
	b.deadline, _ = ctx.Deadline()
	conn, ok := any(e.value).(deadliner)
	if !ok {
		if e.conn == nil {
			return b
		}
		conn = e.conn
	}
	b.conn = conn
	if ctx.Done() == nil {
		return b
	}
	if !b.deadline.IsZero() {
		conn.SetDeadline(b.deadline) // a connection too broken for this will say so in f
	}
	b.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return b
}

// end undoes the binding and reports whether the context has ended. The
// socket's timer may have seen the deadline before the context's did.
func (b binding) end(ctx context.Context) bool {
	if !b.release() || ctx.Err() != nil || !b.deadline.IsZero() && !time.Now().Before(b.deadline) {
		return true
	}
	if b.conn != nil { // whoever has set a deadline, it must not meet the next caller
		b.conn.SetDeadline(time.Time{})
	}
	return false
}

// release lets go of the context. It reports false if that has ended.
func (b binding) release() bool { return b.stop == nil || b.stop() }

// acquireObserved is Acquire for a pool with hooks or leak reports.
func (p *Pool[T]) acquireObserved(ctx context.Context) (Conn[T], error) {
	began := p.now()
	c, waited, err := p.acquire(ctx)
	told := false
	defer func() {
		if !told { // the hook has panicked
			c.Release()
		}
	}()
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
	told = true
	return c, err
}

func (p *Pool[T]) leakOf(c Conn[T]) *leak {
	if c.e == nil {
		return nil
	}
	return c.e.leak
}
