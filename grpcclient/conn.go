package grpcclient

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/holdfast-go/holdfast/health"
)

// conn is one of a pool's connections: a ClientConn, whose sockets come and go.
// All but cc is guarded by the pool's lock.
type conn struct {
	pool  *Pool
	cc    *grpc.ClientConn
	index int
	born  time.Time
	age   *time.Timer // runs until it is old; nil: it doesn't age

	calls    int
	sockets  map[*health.Watch]net.Conn
	suspect  bool // the peer of one of its sockets doesn't answer
	old      bool
	replacer context.CancelFunc // stops its replacement; nil: there is none
	replaced time.Time          // when another took over
}

// newConn makes a connection that isn't in service yet.
func (p *Pool) newConn(index int) (*conn, error) {
	c := &conn{pool: p, index: index, born: time.Now(), sockets: map[*health.Watch]net.Conn{}}
	opts := append(p.cfg.Config.options(c.opened), p.opts...)
	opts = append(opts, grpc.WithChainStreamInterceptor(c.count)) // innermost
	cc, err := grpc.NewClient(p.target, opts...)
	if err != nil {
		return nil, err
	}
	c.cc = cc
	if d := p.cfg.lifetime(); d > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.age = time.AfterFunc(d, c.outlived)
	}
	return c, nil
}

// count is an interceptor that counts a stream until it ends.
func (c *conn) count(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.pool.mu.Lock()
	c.pool.hold(c)
	c.pool.mu.Unlock()
	end := sync.OnceFunc(func() { c.pool.release(c) })
	s, err := streamer(ctx, desc, cc, method, append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { end() }))...)
	if err != nil {
		end()
	}
	return s, err
}

// opened is told of each socket.
func (c *conn) opened(socket net.Conn) {
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
	for w, s := range c.sockets {
		if isClosed(s.(*net.TCPConn)) {
			delete(c.sockets, w)
		}
	}
	c.sockets[w] = socket
	c.look()
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

// look finds out whether the connection is suspect. The lock is held.
func (c *conn) look() {
	before := c.suspect
	c.suspect = false
	for w := range c.sockets {
		switch w.State() {
		case health.Suspect:
			c.suspect = true
		case health.Dead:
			delete(c.sockets, w)
		}
	}
	switch {
	case c.suspect && !before:
		c.pool.replace(c)
	case before && !c.suspect:
		if c.replacer != nil && !c.old {
			c.replacer()
		}
		c.pool.wake()
	}
}

// outlived is called when it is old.
func (c *conn) outlived() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.old = true
	c.pool.replace(c)
}

// close closes it, whatever is in flight, and waits for nothing.
func (c *conn) close() {
	c.pool.mu.Lock()
	if c.age != nil {
		c.age.Stop()
	}
	for w := range c.sockets {
		w.Stop()
	}
	clear(c.sockets)
	c.pool.mu.Unlock()
	_ = c.cc.Close() // it fails the second time only
}

// replace begins to replace a connection, unless that has begun. The lock is held.
func (p *Pool) replace(c *conn) {
	if p.closed || c.replacer != nil || p.conns[c.index] != c {
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
	ok := err == nil && (old.cc.GetState() == connectivity.Idle || connected(ctx, c.cc))
	p.mu.Lock()
	old.replacer = nil
	ok = ok && !p.closed && (old.old || old.suspect)
	if !ok {
		if old.old && err == nil {
			p.replace(old) // it became old while the context ended
		}
		p.mu.Unlock()
		if c != nil {
			c.close()
		}
		return
	}
	p.conns[old.index] = c
	p.draining[old] = struct{}{}
	now := time.Now()
	old.replaced = now
	told := ConnReplaced{Index: old.index, Silent: old.suspect, Age: now.Sub(old.born), InFlight: old.calls}
	if told.Silent {
		p.stat.ReplacedSuspect++
	} else {
		p.stat.ReplacedOld++
	}
	if c.old || c.suspect {
		p.replace(c)
	}
	p.wake()
	p.mu.Unlock()
	if f := p.cfg.Trace.ConnReplaced; f != nil {
		f(told)
	}
	p.mu.Lock()
	if old.calls == 0 {
		p.drained(old)
	}
	p.mu.Unlock()
}

// connected connects, however long that takes, and reports false if the context
// ends before.
func connected(ctx context.Context, cc *grpc.ClientConn) bool {
	for {
		s := cc.GetState()
		if s == connectivity.Ready {
			return true
		}
		if s == connectivity.Idle {
			cc.Connect()
		}
		if !cc.WaitForStateChange(ctx, s) {
			return false
		}
	}
}
