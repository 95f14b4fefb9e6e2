package httpclient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

// conn is a connection of a host's pool. While any request uses it, it is leased:
// checked out of the pool, once for all of them.
type conn struct {
	host   *host
	cc     *http.ClientConn
	raw    net.Conn // below TLS
	dialed string   // the address that led to it: the host's or the proxy's
	shares bool     // several requests at a time: HTTP/2
	rtt    time.Duration
	born   int64 // on the Client's clock

	begun    atomic.Int64 // requests
	lastUsed atomic.Int64 // when the last request ended
	idleFor  atomic.Int64 // what the server's Keep-Alive header allows; 0: it has said nothing
	known    atomic.Bool  // the server's limit of streams, and not only the protocol's first
	proven   atomic.Int64 // when it was opened, or its peer's kernel answered on demand

	mu       sync.Mutex
	checkout pool.Conn[*conn]
	users    int
	leased   bool
	limit    int   // of streams, the last that was known
	seen     bool  // it is the server's word
	stuckAt  int64 // since when streams that are nobody's any more take up all room; 0: they don't
	full     bool  // and not in host.shared for that
	failed   error // the first failure of the connection itself
	bodies   *body // of its responses

	listed  bool // in host.shared; under the host's lock
	evicted bool // to make room for others; under total's lock
}

// begin makes cn, which was just checked out, its first user's. It reports false
// if the connection is not fit, and gives it back then.
func (cn *conn) begin(c pool.Conn[*conn]) bool {
	if why, unfit := cn.unfit(); unfit {
		c.Retire(why)
		return false
	}
	if err := cn.usable(); err != nil {
		c.Fail(connError{err: err})
		return false
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.checkout, cn.leased, cn.users = c, true, 1
	cn.failed, cn.full = nil, false
	cn.begun.Add(1)
	return true
}

// usable asks net/http whether the connection lives, as far as that knows. It
// reserves nothing: that can block an HTTP/2 connection for good
// (golang.org/issue/70809).
func (cn *conn) usable() error {
	if err := cn.cc.Err(); err != nil {
		return err
	}
	if !cn.shares {
		return nil
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.seeLocked()
	if cn.goingAwayLocked() {
		return errGoingAway
	}
	return nil
}

// unfit reports why an unused connection is to serve nobody any more.
func (cn *conn) unfit() (pool.Reason, bool) {
	if limit := cn.idleFor.Load(); limit > 0 && cn.host.client.now()-cn.lastUsed.Load() >= limit {
		return pool.ReasonIdle, true
	}
	return pool.ReasonLifetime, cn.wornOut()
}

// wornOut reports whether the connection has had all its requests.
func (cn *conn) wornOut() bool {
	limit := cn.host.client.cfg.MaxConnRequests
	return limit > 0 && cn.begun.Load() >= int64(limit)
}

// join makes a leased connection one more request's, if it has room. If it has
// none before one of its requests ends, it is full.
func (cn *conn) join(now int64) (joined, full bool) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if !cn.leased || cn.failed != nil || cn.wornOut() {
		return false, false
	}
	if !cn.roomLocked(now) {
		cn.full = cn.known.Load() && cn.users >= cn.limit
		return false, cn.full
	}
	if cn.checkout.Err() != nil {
		return false, false
	}
	cn.users++
	cn.begun.Add(1)
	return true, false
}

// ended is how a request has left its connection.
type ended struct {
	err     error // of the exchange
	spoiled bool  // the response wasn't read to its end
}

// done ends one request's use, and returns when that was. b is its response's
// body, if there is one.
func (cn *conn) done(e ended, b *body) (now int64) {
	h := cn.host
	now = h.client.now()
	cn.lastUsed.Store(now)
	broken := cn.cc.Err()
	if broken == nil && !cn.shares && cn.cc.Available() == 0 {
		broken = errEnding
	}
	cn.mu.Lock()
	cn.users--
	cn.dropLocked(b)
	if cn.failed == nil {
		cn.failed = cn.failure(broken, e)
	}
	if cn.users > 0 {
		full := cn.full
		cn.full = false
		cn.mu.Unlock()
		if full {
			h.relist(cn)
		}
		h.dispatch()
		return now
	}
	c, failed := cn.checkout, cn.failed
	if failed == nil && broken == nil && cn.shares && cn.goingAwayLocked() {
		broken = errGoingAway
	}
	cn.leased, cn.checkout = false, pool.Conn[*conn]{}
	cn.mu.Unlock()
	if cn.shares {
		h.unshare(cn)
	}
	switch {
	case failed == nil && broken == nil && h.client.total.yields():
		c.Retire(pool.ReasonIdle) // others have none
	case failed != nil && cn.retires(failed):
		c.Retire(pool.ReasonDead)
	case failed != nil:
		c.Fail(failed)
	case broken != nil && e.spoiled:
		c.Retire(pool.ReasonFailed)
	case broken != nil:
		c.Retire(pool.ReasonDead) // after its last response, as announced
	case cn.wornOut():
		c.Retire(pool.ReasonLifetime)
	default:
		c.Release()
	}
	h.dispatch()
	return now
}

// unused gives a connection back on which nothing was sent.
func (cn *conn) unused() {
	cn.begun.Add(-1)
	cn.done(ended{}, nil)
}

// keep remembers a response's body until it has ended.
func (cn *conn) keep(b *body) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if b.next = cn.bodies; b.next != nil {
		b.next.prev = b
	}
	cn.bodies = b
	b.kept = true
}

func (cn *conn) dropLocked(b *body) {
	if b == nil || !b.kept {
		return
	}
	b.kept = false
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		cn.bodies = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	}
}

// abandoned returns the bodies whose request's context has ended.
func (cn *conn) abandoned() (bodies []*body) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	for b := cn.bodies; b != nil; b = b.next {
		if b.req.Context().Err() != nil {
			bodies = append(bodies, b)
		}
	}
	return bodies
}

// retires reports whether the server has ended an HTTP/2 connection that served
// well, maybe thousands of requests in what is one use to the pool. That is no
// reason to open the next one any later.
func (cn *conn) retires(failed error) bool {
	e, ok := failed.(connError)
	return ok && e.orderly && cn.shares && cn.known.Load()
}

// failure is what to tell the pool, if an exchange ended badly.
func (cn *conn) failure(broken error, e ended) error {
	switch {
	case broken != nil && e.err != nil:
		return connError{e.err, health.SafeToRetry(e.err)}
	case broken != nil && cn.shares:
		return connError{broken, !e.spoiled}
	case !cn.shares:
		return e.err // nobody knows what is still under way
	}
	return nil
}

// idle reports whether no request uses the connection.
func (cn *conn) idle() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return !cn.leased
}

// gotConn is what httptrace is told of the connection.
func (cn *conn) gotConn(reused bool) httptrace.GotConnInfo {
	info := httptrace.GotConnInfo{Conn: cn.raw, Reused: reused}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if reused && cn.users == 1 {
		info.WasIdle = true
		info.IdleTime = time.Duration(cn.host.client.now() - cn.lastUsed.Load())
	}
	return info
}

// hijack takes the connection out of the pool: it speaks another protocol now,
// and is its user's.
func (cn *conn) hijack() {
	cn.mu.Lock()
	c := cn.checkout
	cn.leased, cn.checkout, cn.users = false, pool.Conn[*conn]{}, 0
	cn.mu.Unlock()
	if _, ok := c.Hijack(); ok {
		cn.host.client.total.release()
		cn.host.forget(cn)
	}
}

// close is the pool's.
func (cn *conn) close() error {
	defer cn.host.client.total.release()
	defer cn.host.forget(cn)
	defer cn.raw.Close() // net/http may be at it itself, and not done
	return cn.cc.Close()
}

// errEnding is why an HTTP/1 connection is not free after its response: net/http
// is about to close it.
var errEnding = errors.New("this was the connection's last response")

// errGoingAway is why an HTTP/2 connection without streams takes none.
var errGoingAway = errors.New("the server takes no more requests on this connection")

// connError is an error after which a connection can't be used any more,
// whatever its class.
type connError struct {
	err     error
	orderly bool // no request was lost with it, as far as known
}

func (e connError) Error() string { return e.err.Error() }
func (e connError) Unwrap() error { return e.err }

// prove asks the peer's kernel, unless that was done, or the connection opened,
// since then.
func (cn *conn) prove(ctx context.Context, since int64) (bool, error) {
	if cn.proven.Load() >= since {
		return true, nil
	}
	now := cn.host.client.now()
	ok, err := cn.host.client.alive(ctx, cn.raw)
	if ok {
		cn.proven.Store(now)
	}
	return ok, err
}

// classify is the pools'.
func classify(err error) health.Class {
	class := health.Classify(err)
	if _, ok := errors.AsType[connError](err); ok && class == health.Unknown {
		return health.Conn
	}
	return class
}
