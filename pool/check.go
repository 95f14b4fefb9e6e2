package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

type verdict struct {
	ok       bool
	doubtful bool // not to be used now, nor to be closed
	slow     bool // it took time
	reason   Reason
	err      error
}

// check decides whether an entry that the caller owns may be handed out.
func (p *Pool[T]) check(ctx context.Context, e *entry[T], now int64) verdict {
	if e.has(flagDead) {
		return e.deadVerdict()
	}
	if now >= e.expires {
		return verdict{reason: ReasonLifetime}
	}
	if limit := p.cfg.MaxConnIdleTime; limit > 0 && now-e.idleSince >= int64(limit) {
		return verdict{reason: ReasonIdle}
	}
	if v := p.peek(e); !v.ok {
		return v
	}
	if e.has(flagSuspect) {
		return verdict{doubtful: true}
	}
	asked := !p.fresh(e, now)
	if asked {
		if v := p.ask(ctx, e, now); !v.ok || ctx.Err() != nil {
			return v
		}
	}
	if !p.pingDue(e, now) {
		return verdict{ok: true, slow: asked}
	}
	if err := p.ping(ctx, e); err != nil {
		class := p.classify(err)
		if ctx.Err() == nil && class != health.Conn {
			p.pingTheRest(now)
		}
		e.doubt(class, err)
		return verdict{slow: true, reason: ReasonPing, err: err}
	}
	e.provenAt = p.now()
	return verdict{ok: true, slow: true}
}

// peek asks the kernel. It sends nothing and consumes nothing.
func (p *Pool[T]) peek(e *entry[T]) verdict {
	if e.watch == nil {
		return verdict{ok: true}
	}
	err := e.watch.Sniff()
	switch {
	case err == nil:
		return verdict{ok: true}
	case errors.Is(err, health.ErrUnread):
		return verdict{reason: ReasonUnread, err: err}
	default:
		return verdict{reason: deathBy(err), err: err}
	}
}

// deathBy tells the guard's own verdict from the kernel's.
func deathBy(cause error) Reason {
	if _, ok := errors.AsType[*health.SilenceError](cause); ok {
		return ReasonSilent
	}
	return ReasonDead
}

func (e *entry[T]) deadVerdict() verdict {
	err := e.cause()
	return verdict{reason: deathBy(err), err: err}
}

// cause says why the guard called e dead. The caller must own e: asking may
// consume the socket's pending error.
func (e *entry[T]) cause() error {
	if e.watch == nil {
		return nil
	}
	if err := e.watch.Sniff(); err != nil && !errors.Is(err, health.ErrUnread) {
		return err
	}
	if err := e.watch.Cause(); err != nil {
		return err
	}
	return io.EOF
}

func (p *Pool[T]) pingDue(e *entry[T], now int64) bool {
	return p.cfg.Ping != nil && now-max(e.provenAt, e.idleSince) >= int64(p.cfg.PingPeriod)
}

func (p *Pool[T]) ping(ctx context.Context, e *entry[T]) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.PingTimeout, errPingTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	p.mu.Lock()
	p.stat.Pinged++
	p.mu.Unlock()
	began := p.now()
	returned := false
	b := bind(ctx, e)
	defer func() {
		if !returned { // runtime.Goexit: nobody comes back for e
			b.release()
			p.discard(e, ReasonPing, errGoexit)
		}
	}()
	err = safely("Ping", func() error { return p.cfg.Ping(ctx, e.value) })
	returned = true
	if b.end(ctx) && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil && context.Cause(ctx) == errPingTimeout {
		err = fmt.Errorf("%w: %w", errPingTimeout, err)
	}
	if t := p.cfg.Trace; t != nil && t.PingDone != nil {
		t.PingDone(ctx, PingDone{Took: time.Duration(p.now() - began), Err: err})
	}
	return err
}

// pingTheRest is called when a ping has failed, but not because of a
// connection's own reset. All idle connections whose ping is due leave the
// idle list and are asked at the same time, so that the callers behind this
// one, and this one in its next round, meet only those that answered.
func (p *Pool[T]) pingTheRest(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for e := p.idle.first; e != nil; {
		next := e.next
		if p.pingDue(e, now) {
			p.idle.remove(e)
			e.state = inUse
			p.work.Add(1)
			go p.pingOne(e)
		}
		e = next
	}
}

func (p *Pool[T]) pingOne(e *entry[T]) {
	defer p.work.Done()
	if v := p.peek(e); !v.ok {
		p.discard(e, v.reason, v.err)
		return
	}
	if err := p.ping(p.ctx, e); err != nil {
		p.discard(e, ReasonPing, err)
		return
	}
	e.provenAt = p.now()
	e.fastUntil = min(e.provenAt+trustFor, e.expires)
	p.giveBack(e)
}

// classify asks the user's Classify. What it panics at is not to be trusted.
func (p *Pool[T]) classify(err error) (class health.Class) {
	if err := safely("Classify", func() error { class = p.cfg.Classify(err); return nil }); err != nil {
		return health.Conn
	}
	return class
}

// safely calls user code and turns its panic into an error.
func safely(name string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			cause, _ := v.(error)
			err = &PanicError{Func: name, Value: fmt.Sprint(v), Stack: string(debug.Stack()), cause: cause}
		}
	}()
	return f()
}
