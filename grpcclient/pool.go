package grpcclient

import (
	"context"
	"fmt"
	"sync"
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
// While every connection is suspect, which means that its peer was asked and
// hasn't answered in time, new ones are opened, and calls wait for the first that
// is ready or for an answer; until their context ends, and not longer than the
// guard takes for its verdict.
type Pool struct {
	cfg    PoolConfig
	target string
	opts   []grpc.DialOption
	made   bool // the dialer is the pool's own

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    []*conn
	draining map[*conn]struct{}
	turn     int           // where the search for the least loaded begins
	changed  chan struct{} // closed, and replaced, when a conn may be of use again
	closed   bool
	idle     chan struct{} // closed when the pool is closed and nothing is in flight
	rested   bool          // that is so
	stat     Stat          // its counters, and InFlight
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
	for i := range n {
		c, err := p.newConn(i)
		if err != nil {
			_ = p.Close(context.Background())
			return nil, err
		}
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
	}
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
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, closedError{}
		}
		if c := p.choose(late); c != nil {
			p.stat.Calls++
			p.hold(c)
			p.mu.Unlock()
			return c, nil
		}
		if verdict == nil {
			p.stat.Waited++
			timer := time.NewTimer(p.cfg.Config.Dialer.Config().DetectWithin + time.Second)
			defer timer.Stop()
			verdict = timer.C
		}
		for _, c := range p.conns {
			p.replace(c)
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-verdict:
			late = true
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// choose returns the connection for the next call, nil if all are suspect and
// that isn't good enough. The lock is held.
func (p *Pool) choose(suspects bool) *conn {
	var best *conn
	var bestRank, bestCalls int
	for i := range p.conns {
		c := p.conns[(p.turn+i)%len(p.conns)]
		if c.suspect && !suspects {
			continue
		}
		rank, calls := 0, 2*c.calls
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
	p.turn = (p.turn + 1) % len(p.conns)
	return best
}

// hold counts a call. The lock is held.
func (p *Pool) hold(c *conn) {
	c.calls++
	p.stat.InFlight++
}

// release counts a call no more, and closes a replaced connection after its last.
func (p *Pool) release(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.calls--
	p.stat.InFlight--
	if c.calls == 0 && !c.replaced.IsZero() {
		p.drained(c)
	}
	p.rest()
}

// rest notes that a closed pool has nothing in flight. The lock is held.
func (p *Pool) rest() {
	if p.closed && p.stat.InFlight == 0 && !p.rested {
		p.rested = true
		close(p.idle)
	}
}

// drained has a replaced connection closed that has no calls any more. The lock
// is held.
func (p *Pool) drained(c *conn) {
	if _, ok := p.draining[c]; !ok {
		return // Close has cut it off
	}
	delete(p.draining, c)
	p.wg.Go(func() {
		c.close()
		if f := p.cfg.Trace.ConnDrained; f != nil {
			f(ConnDrained{Index: c.index, Took: time.Since(c.replaced)})
		}
	})
}

// Stat returns the pool's numbers of this moment.
func (p *Pool) Stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stat
	s.Conns, s.Draining = len(p.conns), len(p.draining)
	for _, c := range p.conns {
		if c.cc.GetState() == connectivity.Ready {
			s.Ready++
		}
		if c.suspect {
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
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.rest()
	p.wake()
	p.mu.Unlock()
	p.cancel()

	var err error
	select {
	case <-p.idle:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	all := p.conns
	for c := range p.draining {
		all = append(all, c)
	}
	if n := p.stat.InFlight; err != nil && n > 0 {
		err = fmt.Errorf("grpcclient: the pool was closed with %d calls in flight: %w", n, err)
	} else {
		err = nil
	}
	p.conns = nil
	clear(p.draining)
	p.mu.Unlock()
	for _, c := range all {
		c.close()
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

// Is reports that it is ErrClosed.
func (closedError) Is(target error) bool { return target == ErrClosed }

// ErrClosed is what errors.Is finds in the error of a call that was begun after
// [Pool.Close]. Its code is codes.Canceled, as with a *grpc.ClientConn.
var ErrClosed error = closedError{}
