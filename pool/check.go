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
	ok     bool
	reason Reason
	err    error
}

// check decides whether an entry that the caller owns may be handed out.
func (p *Pool[T]) check(ctx context.Context, e *entry[T], now int64) verdict {
	if e.dead.Load() {
		return verdict{reason: ReasonDead, err: e.cause()}
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
	if p.pingDue(e, now) {
		if err := p.ping(ctx, e); err != nil {
			if ctx.Err() == nil {
				p.pingTheRest(now)
			}
			return verdict{reason: ReasonPing, err: err}
		}
		e.provenAt = p.now()
	}
	return verdict{ok: true}
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
		return verdict{ok: p.cfg.AllowUnread, reason: ReasonUnread, err: err}
	default:
		return verdict{reason: ReasonDead, err: err}
	}
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
	p.mu.Lock()
	p.stat.Pinged++
	p.mu.Unlock()
	if t := p.cfg.Trace; t != nil && t.PingDone != nil {
		began := p.now()
		defer func() { t.PingDone(ctx, PingDone{Took: time.Duration(p.now() - began), Err: err}) }()
	}
	err = p.safely("Ping", func() error { return p.cfg.Ping(ctx, e.value) })
	if err != nil && context.Cause(ctx) == errPingTimeout {
		err = fmt.Errorf("%w: %w", errPingTimeout, err)
	}
	return err
}

// pingTheRest is called when a ping has failed. All idle connections whose
// ping is due leave the idle list and are asked at the same time, so that the
// callers behind this one, and this one in its next round, meet only those
// that answered.
func (p *Pool[T]) pingTheRest(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e := p.idle.first; e != nil; {
		next := e.next
		if p.pingDue(e, now) {
			p.takeLocked(e)
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
	e.fastUntil = e.provenAt + freshFor
	p.giveBack(e)
}

// safely calls user code and turns its panic into an error.
func (p *Pool[T]) safely(name string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Func: name, Value: fmt.Sprint(v), Stack: string(debug.Stack())}
		}
	}()
	return f()
}
