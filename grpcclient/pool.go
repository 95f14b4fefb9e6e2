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
// counted until it ends, among those that are connected or idle; between equals,
// to one that is connected. So no more are opened than are needed at once. What
// fails fast, waits for ready or is retried does so within the connection that
// was chosen.
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
	turn   atomic.Uint32           // where the search for the least loaded begins
	calls  atomic.Uint64           // that were begun

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
		cfg: cfg, target: target, opts: opts, made: made,
		draining: map[*conn]struct{}{},
		changed:  make(chan struct{}),
		idle:     make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	conns := make([]*conn, n)
	p.mu.Lock() // until all are there, lest one outlives itself before
	defer p.mu.Unlock()
	for i := range conns {
		if conns[i], err = p.newConn(i); err != nil {
			for _, c := range conns[:i] {
				c.stop()
				_ = c.cc.Close()
			}
			p.cancel()
			return nil, err
		}
	}
	p.conns.Store(&conns)
	return p, nil
}

// Invoke performs a unary call, as grpc.ClientConn's does.
func (p *Pool) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	c, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(c)
	return c.cc.Invoke(ctx, method, args, reply, opts...)
}

// NewStream begins a streaming call, as grpc.ClientConn's does. It counts as in
// flight until it ends as gRPC demands: its context ends, RecvMsg returns an
// error, or the only message of a server that doesn't stream.
func (p *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer p.release(c)
	return c.cc.NewStream(ctx, desc, method, opts...) // conn.count goes on counting it
}

// acquire chooses a connection and counts a call on it.
func (p *Pool) acquire(ctx context.Context) (*conn, error) {
	var verdict <-chan time.Time
	late := false // nobody has passed it: the guard was closed
	for {
		if c := p.choose(late); c != nil && p.hold(c) {
			p.calls.Add(1)
			return c, nil
		}
		if p.closed.Load() {
			return nil, ErrClosed
		}
		changed := p.relieve(late)
		if changed == nil {
			continue
		}
		if verdict == nil {
			timer := time.NewTimer(p.cfg.Config.Dialer.Config().DetectWithin + time.Second)
			defer timer.Stop()
			verdict = timer.C
		}
		select {
		case <-changed:
		case <-verdict:
			late = true
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// relieve has all connections replaced if none is fit for calls, and returns what
// is closed when one may be. Nil: one is.
func (p *Pool) relieve(late bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() || p.choose(late) != nil {
		return nil
	}
	p.stat.Waited++
	for _, c := range *p.conns.Load() {
		if c.suspect.Load() {
			p.replace(c)
		}
	}
	return p.changed
}

// choose returns the connection for the next call, nil if all are suspect and
// that isn't good enough.
func (p *Pool) choose(suspects bool) *conn {
	conns := *p.conns.Load()
	turn := int(p.turn.Add(1) % maxConns)
	var best *conn
	var bestRank int
	var bestCalls int64
	for i := range conns {
		c := conns[(turn+i)%len(conns)]
		if !suspects && (c.suspect.Load() || c.doubted.Load()) {
			continue
		}
		rank, calls := 0, 2*c.calls.Load()
		if best != nil && bestRank == 0 && calls >= bestCalls {
			continue
		}
		switch c.cc.GetState() {
		case connectivity.Ready:
		case connectivity.Idle:
			calls++
		default:
			rank = 1
		}
		if best == nil || rank < bestRank || rank == bestRank && calls < bestCalls {
			best, bestRank, bestCalls = c, rank, calls
		}
	}
	return best
}

// hold counts a call, unless the connection isn't in service any more. It and
// what takes the connection out of service, by setting retired or closed and then
// looking at the calls, can't both miss each other.
func (p *Pool) hold(c *conn) bool {
	c.calls.Add(1)
	if c.retired.Load() || p.closed.Load() {
		p.release(c)
		return false
	}
	return true
}

// release counts a call no more, and closes a replaced connection after its last.
func (p *Pool) release(c *conn) {
	if c.calls.Add(-1) > 0 || !c.retired.Load() && !p.closed.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drained(c)
	p.rest()
}

// inFlight counts the calls. The lock is held.
func (p *Pool) inFlight() (n int) {
	for _, c := range *p.conns.Load() {
		n += int(c.calls.Load())
	}
	for c := range p.draining {
		n += int(c.calls.Load())
	}
	return n
}

// rest notes that a closed pool has nothing in flight. The lock is held.
func (p *Pool) rest() {
	if p.closed.Load() && !p.rested && p.inFlight() == 0 {
		p.rested = true
		close(p.idle)
	}
}

// drained has a replaced connection closed if it has no calls any more. The lock
// is held.
func (p *Pool) drained(c *conn) {
	if _, ok := p.draining[c]; !ok || c.calls.Load() > 0 {
		return // in service, or cut off by Close
	}
	delete(p.draining, c)
	c.stop()
	p.wg.Go(func() {
		_ = c.cc.Close() // it fails the second time only
		if f := p.cfg.Trace.ConnDrained; f != nil {
			f(ConnDrained{Index: c.index, Took: time.Since(c.replaced)})
		}
	})
}

// Stat returns the pool's numbers of this moment.
func (p *Pool) Stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, conns := p.stat, *p.conns.Load()
	s.Calls, s.Conns, s.Draining, s.InFlight = p.calls.Load(), len(conns), len(p.draining), p.inFlight()
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
// If ctx was first, the calls that remain fail, and Close returns an error that
// wraps the context's. A second Close does nothing.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if p.closed.Swap(true) {
		p.mu.Unlock()
		return nil
	}
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
	p.mu.Lock()
	if p.rested {
		err = nil // at the last moment
	}
	all := slices.AppendSeq(slices.Clone(*p.conns.Load()), maps.Keys(p.draining))
	p.conns.Store(&[]*conn{})
	clear(p.draining)
	for _, c := range all {
		c.stop()
	}
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
