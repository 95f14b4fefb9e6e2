package grpcclient

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

var _ grpc.ClientConnInterface = (*Pool)(nil)

// Pool is several connections to one target, which share its calls. Hand it to
// the constructors of generated code in place of a *grpc.ClientConn. All methods
// may be called concurrently.
//
// A call goes to the connection with the fewest calls and streams in flight, each
// counted until it ends. When calls overlap another connection is opened, so no more
// are than are needed at once. Unary calls don't wait for it while others are
// connected, unless these have many; streams, which are to be spread, do, for a
// second at most. What can't be connected gets no calls while there are others. What
// fails fast, waits for ready or is retried does so within the connection that was
// chosen.
//
// A connection whose peer was asked and hasn't answered in time is suspect: it gets
// no calls, a new one is opened to take its place, and the others are asked before
// they get any. While all are suspect calls wait for a new one or for an answer;
// until their context ends, and not longer than the guard takes for its verdict.
type Pool struct {
	cfg    PoolConfig
	target string
	opts   []grpc.DialOption
	made   bool // the dialer is the pool's own

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	conns  atomic.Pointer[[]*conn] // that calls are given to; changed with the lock
	closed atomic.Bool             // set with the lock
	calls  atomic.Uint64           // that were begun

	ending sync.Mutex // held while connections are closed for good, before mu

	mu       sync.Mutex
	draining map[*conn]struct{}
	changed  chan struct{} // closed, and replaced, when a conn may be of use again
	idle     chan struct{} // closed when the pool is closed and nothing is in flight
	rested   bool          // that is so
	stat     Stat          // the counters but for Calls
}

// NewPool returns a Pool of n connections, each a ClientConn of its own made by
// grpc.NewClient(target, …) with the options of DialOptions and then opts, of which
// credentials are the one that is needed. No I/O is done before the first call.
//
// The error is about n, cfg, the target or opts.
func NewPool(target string, n int, cfg PoolConfig, opts ...grpc.DialOption) (*Pool, error) {
	cfg, made, err := cfg.complete(n)
	if err != nil {
		return nil, err
	}
	p := &Pool{
		cfg: cfg, target: target, opts: slices.Clone(opts), made: made,
		draining: map[*conn]struct{}{},
		changed:  make(chan struct{}),
		idle:     make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	conns := make([]*conn, n)
	for i := range conns {
		if conns[i], err = p.newConn(i); err != nil {
			for _, c := range conns[:i] {
				_ = c.cc.Close()
			}
			p.cancel()
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns.Store(&conns)
	for _, c := range conns {
		c.enter()
	}
	return p, nil
}

// Invoke performs a unary call, as grpc.ClientConn's does.
func (p *Pool) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	c, err := p.acquire(ctx, false)
	if err != nil {
		return err
	}
	defer p.release(c)
	return c.verdict(ctx, c.cc.Invoke(ctx, method, args, reply, opts...))
}

// hold counts a call, unless the connection isn't in service any more. It and
// what takes the connection out of service, by setting retired or closed and then
// looking at the calls, can't both miss each other.
func (p *Pool) hold(c *conn) bool {
	c.calls.Add(1)
	return p.held(c)
}

// held is hold for a call that was counted already.
func (p *Pool) held(c *conn) bool {
	if c.retired.Load() || p.closed.Load() {
		p.release(c)
		return false
	}
	return true
}

// release counts a call no more, and closes a replaced connection after its last.
func (p *Pool) release(c *conn) { p.less(c, &c.calls) }

// unpin is release for pins.
func (p *Pool) unpin(c *conn) { p.less(c, &c.pins) }

// less takes one from a count of the connection's.
func (p *Pool) less(c *conn, count *atomic.Int64) {
	if count.Add(-1) != 0 || !c.retired.Load() && !p.closed.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drained(c)
	p.rest()
}

// all are the connections in service and those that drain. The lock is held.
func (p *Pool) all() []*conn {
	return slices.AppendSeq(slices.Clone(*p.conns.Load()), maps.Keys(p.draining))
}

// rest notes that a closed pool has nothing in flight. The lock is held.
func (p *Pool) rest() {
	if !p.closed.Load() || p.rested || slices.ContainsFunc(p.all(), (*conn).busy) {
		return
	}
	p.rested = true
	close(p.idle)
}

// drained has a replaced connection closed if it has no calls any more, or has had
// its time. The lock is held.
func (p *Pool) drained(c *conn) {
	if _, ok := p.draining[c]; !ok || !c.announced || c.busy() && !c.overdue {
		return // in service, or cut off by Close, or the hook is still running
	}
	delete(p.draining, c)
	c.stop()
	cut := int(c.calls.Load())
	c.cut.Store(cut > 0)
	p.wg.Go(func() {
		_ = c.cc.Close() // it fails the second time only
		if f := p.cfg.Trace.ConnDrained; f != nil {
			f(ConnDrained{Index: c.index, Took: time.Since(c.replaced), CutOff: cut})
		}
	})
}

// Stat returns the pool's numbers of this moment.
func (p *Pool) Stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, conns := p.stat, *p.conns.Load()
	s.Calls, s.Conns, s.Draining = p.calls.Load(), len(conns), len(p.draining)
	for _, c := range p.all() {
		s.InFlight += int(c.calls.Load())
	}
	for _, c := range conns {
		if c.cc.GetState() == connectivity.Ready {
			s.Ready++
		}
		if c.suspect.Load() {
			s.Suspect++
		}
	}
	return s
}

// Close lets no further call begin, waits until those in flight have ended or ctx
// has, closes all connections, and waits until the pool's goroutines have ended.
// If ctx was first, the calls that remain fail as when a ClientConn is closed, and
// Close returns an error that wraps the context's. It may be called again, and
// concurrently; the least patient call decides.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed.Store(true)
	p.rest()
	p.wake()
	p.mu.Unlock()
	p.cancel()

	var err error
	select {
	case <-p.idle:
	case <-ctx.Done():
		err = fmt.Errorf("grpcclient: the pool was closed with calls in flight: %w", context.Cause(ctx))
	}
	p.ending.Lock()
	defer p.ending.Unlock()
	p.mu.Lock()
	if p.rested {
		err = nil // at the last moment
	}
	all := p.all()
	p.conns.Store(&[]*conn{})
	clear(p.draining)
	for _, c := range all {
		c.stop()
	}
	p.rest() // for the sake of those who wait longer
	p.mu.Unlock()
	for _, c := range all {
		_ = c.cc.Close() // it fails the second time only
	}
	p.wg.Wait()
	if p.made {
		_ = p.cfg.Config.Dialer.Close() // which has no errors
	}
	return err
}

// wake has those look again who wait for a connection. The lock is held.
func (p *Pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// closedError is what calls get once Close was called.
type closedError struct{}

func (closedError) Error() string { return "grpcclient: the pool is closed" }

// GRPCStatus is what status.FromError asks for.
func (e closedError) GRPCStatus() *status.Status { return status.New(codes.Canceled, e.Error()) }

// ErrClosed is what errors.Is finds in the error of a call that was begun after
// [Pool.Close]. Its code is codes.Canceled, as with a *grpc.ClientConn.
var ErrClosed error = closedError{}
