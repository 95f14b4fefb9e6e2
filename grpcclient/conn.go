package grpcclient

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/holdfast-go/holdfast/health"
)

// conn is one of a pool's connections: a ClientConn, whose sockets come and go.
type conn struct {
	pool  *Pool
	cc    *grpc.ClientConn
	index int
	born  time.Time

	calls   atomic.Int64 // in flight
	pins    atomic.Int64 // methods of streams that run, and may begin another call
	retired atomic.Bool  // another has taken over
	slow    atomic.Bool  // a stream has waited for it in vain
	cut     atomic.Bool  // it was closed with calls in flight, as MaxConnDrain was over
	suspect atomic.Bool  // the peer of one of its sockets doesn't answer; set with the pool's lock
	doubted atomic.Bool  // it is being asked, since another one is suspect; set with the pool's lock

	// Guarded by the pool's lock.
	sockets   map[*health.Watch]net.Conn
	timer     *time.Timer // runs until it is old, or has drained for long enough; or nil
	old       bool
	replacer  context.CancelFunc // stops its replacement; nil: there is none
	replaced  time.Time          // when another took over
	announced bool               // and the hook knows
	overdue   bool               // it has drained for long enough
	stopped   bool
}

// trusted reports whether nothing is held against it.
func (c *conn) trusted() bool { return !c.suspect.Load() && !c.doubted.Load() }

// busy reports whether something would be lost with it.
func (c *conn) busy() bool { return c.calls.Load() > 0 || c.pins.Load() > 0 }

// newConn makes a connection that isn't in service yet. The lock isn't held, as
// this runs code of the user's.
func (p *Pool) newConn(index int) (*conn, error) {
	c := &conn{pool: p, index: index, sockets: map[*health.Watch]net.Conn{}}
	opts := append(p.cfg.Config.options(c.opened), p.opts...)
	opts = append(opts, p.cfg.Config.resolver(), grpc.WithChainStreamInterceptor(c.count)) // innermost
	cc, err := grpc.NewClient(p.target, opts...)
	c.cc = cc
	return c, err
}

// enter begins its service, or another term of it. The lock is held.
func (c *conn) enter() {
	c.born, c.old = time.Now(), false
	if c.timer != nil {
		c.timer.Stop()
	}
	if d := c.pool.cfg.lifetime(); d > 0 && !c.stopped {
		c.timer = time.AfterFunc(d, c.outlived)
	}
}

// opened is told of each socket.
func (c *conn) opened(socket net.Conn) {
	c.slow.Store(false)
	if _, ok := socket.(*net.TCPConn); !ok {
		return
	}
	guard := c.pool.cfg.Config.Dialer.Guard()
	if guard == nil {
		return
	}
	w, err := guard.Watch(socket, nil, c.told)
	if err != nil {
		return // then nobody knows whether its peer is silent
	}
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.stopped {
		w.Stop()
		return
	}
	c.sockets[w] = socket
	c.look()
}

// prune forgets the sockets that gRPC has closed, and reports whether there were
// any. The lock is held.
func (c *conn) prune() bool {
	before := len(c.sockets)
	maps.DeleteFunc(c.sockets, func(_ *health.Watch, s net.Conn) bool { return isClosed(s.(*net.TCPConn)) })
	return len(c.sockets) < before
}

func isClosed(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// told is called by the guard when it changes its mind about a socket.
func (c *conn) told(*health.Watch) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.look()
}

// look finds out whether the connection is suspect. It still is when its peer has
// been given up, until gRPC has noticed that, and sends no call there any more; if
// nobody would see that, as nothing replaces it, it isn't. The lock is held.
func (c *conn) look() {
	c.prune()
	before, suspect := c.suspect.Load(), false
	for w := range c.sockets {
		switch state := w.State(); {
		case state == health.Suspect, state == health.Dead && before && c.replacer != nil:
			suspect = true
		case state == health.Dead:
			delete(c.sockets, w)
		}
	}
	c.suspect.Store(suspect)
	switch {
	case suspect && !before:
		c.pool.replace(c)
		c.pool.doubt()
	case before && !suspect:
		if c.replacer != nil && !c.old {
			c.replacer()
		}
		c.pool.wake()
	}
}

// outlived is called when it is old. If it isn't connected there is nothing to
// replace; what is opened now will not be older than it should when this is called
// again.
func (c *conn) outlived() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	switch {
	case c.stopped || c.retired.Load():
	case c.cc.GetState() == connectivity.Idle:
		c.enter()
	default:
		c.old = true
		c.pool.replace(c)
	}
}

// drain begins the end of its service. The lock is held.
func (c *conn) drain() {
	c.replaced = time.Now()
	c.retired.Store(true)
	if c.timer != nil {
		c.timer.Stop()
	}
	if d := c.pool.cfg.MaxConnDrain; d > 0 {
		c.timer = time.AfterFunc(d, func() {
			c.pool.mu.Lock()
			defer c.pool.mu.Unlock()
			c.overdue = true
			c.pool.drained(c)
			c.pool.rest()
		})
	}
}

// stop ends what is done for its sake. The lock is held.
func (c *conn) stop() {
	c.stopped = true
	if c.timer != nil {
		c.timer.Stop()
	}
	for w := range c.sockets {
		w.Stop()
	}
	clear(c.sockets)
}

// replace begins to replace a connection, unless that has begun. The lock is held.
func (p *Pool) replace(c *conn) {
	if conns := *p.conns.Load(); p.closed.Load() || c.replacer != nil || conns[c.index] != c {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	c.replacer = cancel
	p.wg.Go(func() {
		defer cancel()
		p.takeOver(ctx, c)
	})
}

// takeOver puts a new connection into an old one's place, as soon as it is
// connected. It is not to be if the context ends.
func (p *Pool) takeOver(ctx context.Context, old *conn) {
	c, err := p.newConn(old.index)
	ok := err == nil && (old.cc.GetState() == connectivity.Idle || p.succeeds(ctx, c, old))
	p.mu.Lock()
	old.replacer = nil
	if err != nil {
		old.enter()
		old.look()
		p.mu.Unlock()
		return
	}
	needed := old.old || old.suspect.Load()
	if !ok || p.closed.Load() || !needed {
		c.stop()
		if needed {
			p.replace(old) // it became so while the context ended
		}
		p.mu.Unlock()
		_ = c.cc.Close()
		return
	}
	told := p.swap(old, c)
	p.mu.Unlock()
	if f := p.cfg.Trace.ConnReplaced; f != nil {
		f(told)
	}
	p.mu.Lock()
	old.announced = true
	p.drained(old)
	p.rest()
	p.mu.Unlock()
}

// lookAgain is how often a connection that is being replaced is looked at: nobody is
// told when gRPC has closed its socket.
const lookAgain = 20 * time.Millisecond

// succeeds waits until a new connection is connected, and reports false if the
// context ends before, as it does when the old one is not suspect any more.
func (p *Pool) succeeds(ctx context.Context, c, old *conn) bool {
	for {
		brief, cancel := context.WithTimeout(ctx, lookAgain)
		ok := connected(brief, c.cc, true)
		cancel()
		if ok || ctx.Err() != nil {
			return ok
		}
		p.mu.Lock()
		if old.prune() {
			old.look()
		}
		p.mu.Unlock()
	}
}

// swap puts a connection into service in place of another. The lock is held.
func (p *Pool) swap(old, c *conn) ConnReplaced {
	conns := slices.Clone(*p.conns.Load())
	conns[old.index] = c
	p.conns.Store(&conns)
	p.draining[old] = struct{}{}
	old.drain()
	c.enter()
	told := ConnReplaced{
		Index: old.index, Silent: old.suspect.Load(),
		Age: old.replaced.Sub(old.born), InFlight: int(old.calls.Load()),
	}
	if told.Silent {
		p.stat.ReplacedSuspect++
	} else {
		p.stat.ReplacedOld++
	}
	if c.suspect.Load() {
		p.replace(c)
	}
	p.wake()
	return told
}

// connected connects, and reports false if the context ends before, or at the first
// failure, unless it is to persist.
func connected(ctx context.Context, cc *grpc.ClientConn, persist bool) bool {
	for {
		s := cc.GetState()
		switch s {
		case connectivity.Ready:
			return true
		case connectivity.Idle:
			cc.Connect()
		case connectivity.Connecting:
		default:
			if !persist {
				return false
			}
		}
		if !cc.WaitForStateChange(ctx, s) {
			return false
		}
	}
}
