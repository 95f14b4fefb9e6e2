package httpclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/pool"
)

// Host names what a Client keeps connections to.
type Host struct {
	Scheme string // http or https
	Addr   string // host:port; empty for http by way of a proxy, which serves all of them on one connection
	Proxy  string // its URL without user and password; empty: none
}

// String returns the host as a URL.
func (h Host) String() string {
	s := h.Scheme + "://" + h.Addr
	if h.Proxy != "" {
		s += " via " + h.Proxy
	}
	return s
}

// protocol is what a host's connections speak.
type protocol uint32

const (
	unknown protocol = iota
	exclusive
	shared // HTTP/2
)

// host has the connections to one host.
type host struct {
	client *Client
	key    hostKey
	name   Host
	addr   string // host:port, what to dial
	proxy  *url.URL
	pool   *pool.Pool[*conn]

	active   atomic.Int64 // requests, until their response's end
	requests atomic.Int64
	lastUsed atomic.Int64
	speaks   atomic.Uint32 // protocol
	waiting  atomic.Int64  // len(waiters)
	sweeping atomic.Bool   // about to sweep

	mu        sync.Mutex
	conns     map[*conn]struct{} // all that exist
	shared    []*conn            // leased ones that several requests may use
	waiters   []*waiter          // first come first
	acquiring int                // waiters that ask the pool
	limit     int                // of streams on a connection, as far as known
	settling  *time.Timer
	names     map[string]*addresses // for refreshes
}

// waiter is a request that waits for room on a connection, or for a connection
// of its own.
type waiter struct {
	served   chan struct{} // capacity 1
	turn     chan struct{} // to ask the pool; capacity 1
	since    int64         // as of acquire
	promoted bool
	cancel   context.CancelFunc // ends the asking
	conn     *conn
	err      error
}

// acquire finds a connection for a request. It is alive as far as anybody knows,
// and if since isn't zero, opened or asked since then.
func (h *host) acquire(ctx context.Context, since int64) (*conn, error) {
	if protocol(h.speaks.Load()) == exclusive {
		return h.own(ctx, since)
	}
	h.mu.Lock()
	if cn := h.joinLocked(since); cn != nil {
		h.mu.Unlock()
		return cn, nil
	}
	if len(h.shared)+len(h.waiters)+h.acquiring == 0 { // nobody could make room
		h.acquiring++
		h.mu.Unlock()
		cn, err := h.own(ctx, since)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.acquiredLocked(ctx, err)
		return cn, err
	}
	if limit := h.client.cfg.MaxWaitersPerHost; limit > 0 && len(h.waiters) >= limit {
		h.mu.Unlock()
		return nil, unsent{fmt.Errorf("%w for a connection to %v: %d", ErrTooManyWaiters, h.name, limit)}
	}
	w := &waiter{served: make(chan struct{}, 1), turn: make(chan struct{}, 1), since: since}
	h.waiters = append(h.waiters, w)
	h.waiting.Add(1)
	h.promoteLocked()
	h.mu.Unlock()
	return h.wait(ctx, w)
}

func (h *host) wait(ctx context.Context, w *waiter) (*conn, error) {
	select {
	case <-w.turn:
		return h.waitForOwn(ctx, w)
	case <-w.served:
	case <-ctx.Done():
	}
	h.mu.Lock()
	left := h.leaveLocked(w)
	if w.promoted { // and hasn't made use of it
		h.acquiring--
		h.promoteLocked()
	}
	h.mu.Unlock()
	switch {
	case left:
		return nil, unsent{fmt.Errorf("no room on a connection in time: %w", context.Cause(ctx))}
	case w.conn != nil && ctx.Err() != nil:
		w.conn.unused()
		return nil, unsent{context.Cause(ctx)}
	}
	return w.conn, w.err
}

// learn takes note of a server's limit of streams.
func (h *host) learn(limit int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit = limit
	h.dispatchLocked()
}

// waitForOwn asks the pool for a connection, until there is room elsewhere.
func (h *host) waitForOwn(ctx context.Context, w *waiter) (*conn, error) {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	w.cancel = cancel
	if !slices.Contains(h.waiters, w) {
		cancel()
	}
	h.mu.Unlock()
	cn, err := h.own(own, w.since)
	h.mu.Lock()
	left := h.leaveLocked(w)
	if !left {
		err = nil // canceled, maybe
	}
	h.acquiredLocked(ctx, err)
	h.mu.Unlock()
	if left {
		return cn, err
	}
	if cn != nil { // one too many
		cn.unused()
	}
	return w.conn, w.err
}

// acquiredLocked is called when one who asked the pool has its answer. If that is
// an error, other than its own impatience, it holds for all who wait.
func (h *host) acquiredLocked(ctx context.Context, err error) {
	h.acquiring--
	if err != nil && ctx.Err() == nil {
		h.failLocked(err)
	}
	h.promoteLocked()
}

// leaveLocked takes w out of the queue. It reports false if it was served.
func (h *host) leaveLocked(w *waiter) bool {
	i := slices.Index(h.waiters, w)
	if i < 0 {
		return false
	}
	h.waiters = slices.Delete(h.waiters, i, i+1)
	h.waiting.Add(-1)
	return true
}

// joinLocked finds room on a connection that others use.
func (h *host) joinLocked(since int64) *conn {
	now := h.client.now()
	for i := len(h.shared) - 1; i >= 0; i-- {
		cn := h.shared[i]
		if cn.proven.Load() < since {
			continue
		}
		if cn.join(now) {
			return cn
		}
		h.settleLocked(cn, now)
	}
	return nil
}

// settleLocked reports whether the limit of a connection isn't known yet, and
// sees to it that the waiting are looked after when it should be.
func (h *host) settleLocked(cn *conn, now int64) bool {
	at := cn.settled()
	if now >= at {
		return false
	}
	if h.settling == nil {
		h.settling = time.AfterFunc(time.Duration(at-now), func() {
			h.mu.Lock()
			h.settling = nil
			h.mu.Unlock()
			h.dispatch()
		})
	}
	return !cn.knows()
}

// dispatch gives the waiting what room there is.
func (h *host) dispatch() {
	if h.waiting.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dispatchLocked()
}

func (h *host) dispatchLocked() {
	for i := 0; i < len(h.waiters); {
		since := h.waiters[i].since
		if cn := h.joinLocked(since); cn != nil {
			h.serveLocked(i, cn, nil)
		} else if since == 0 {
			break
		} else {
			i++ // only certain ones are good enough for this one
		}
	}
	h.promoteLocked()
}

// serveLocked ends the wait of one in the queue.
func (h *host) serveLocked(i int, cn *conn, err error) {
	w := h.waiters[i]
	h.waiters = slices.Delete(h.waiters, i, i+1)
	h.waiting.Add(-1)
	w.conn, w.err = cn, err
	if w.cancel != nil {
		w.cancel()
	}
	w.served <- struct{}{}
}

// failLocked ends all waits: what one was told when it asked the pool holds for
// the others.
func (h *host) failLocked(err error) {
	for len(h.waiters) > 0 {
		h.serveLocked(0, nil, err)
	}
}

// promoteLocked has as many of the waiting ask the pool as connections are
// needed for all of them. What a new host speaks is found out by one.
func (h *host) promoteLocked() {
	want := len(h.waiters)
	switch protocol(h.speaks.Load()) {
	case unknown:
		want = min(want, 1)
	case shared:
		per := max(h.limit, 1)
		want = (want + per - 1) / per
		// Those whose limit isn't known yet will take as many.
		for now, i := h.client.now(), 0; want > 0 && i < len(h.shared); i++ {
			if h.settleLocked(h.shared[i], now) {
				want--
			}
		}
	}
	for _, w := range h.waiters {
		if h.acquiring >= want {
			return
		}
		if !w.promoted {
			w.promoted = true
			h.acquiring++
			w.turn <- struct{}{}
		}
	}
}

// own checks a connection out of the pool.
func (h *host) own(ctx context.Context, since int64) (*conn, error) {
	for {
		c, err := h.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		cn := c.Value()
		if !cn.prove(ctx, since) {
			c.Release() // the guard has told the pool what to do with it
			if ctx.Err() != nil {
				return nil, unsent{context.Cause(ctx)}
			}
			continue
		}
		if cn.begin(c) {
			h.leased(cn)
			return cn, nil
		}
	}
}

// leased is called when a connection got its first user.
func (h *host) leased(cn *conn) {
	if !cn.shares {
		h.speaks.Store(uint32(exclusive))
		if h.waiting.Load() > 0 {
			h.dispatch()
		}
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.speaks.Store(uint32(shared))
	h.shared = append(h.shared, cn)
	setDefault(&h.limit, unknownLimit)
	h.dispatchLocked()
}

func (h *host) unshare(cn *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.shared, cn); i >= 0 {
		h.shared = slices.Delete(h.shared, i, i+1)
	}
}

// forget is called when a connection is gone.
func (h *host) forget(cn *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, cn)
}

// dialKey is the key of a context's dialing.
type dialKey struct{}

// dialing is what one call of open needs, and learns, in the dial functions of
// the Transport.
type dialing struct {
	proxy *url.URL

	mu     sync.Mutex
	raw    net.Conn
	dialed string
	took   time.Duration
	ended  bool // nobody wants raw any more
}

func (d *dialing) got(c net.Conn, addr string, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raw, d.dialed, d.took = c, addr, took
	if d.ended {
		c.Close()
	}
}

// abandon ends what is under way on the connection: not all that net/http does
// obeys its context (golang.org/issue/79253).
func (d *dialing) abandon() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.raw != nil {
		d.raw.Close()
	}
}

// open is the pool's.
func (h *host) open(ctx context.Context) (*conn, error) {
	c := h.client
	if err := c.total.acquire(ctx, h); err != nil {
		return nil, err
	}
	cn, err := h.dial(ctx)
	if err != nil {
		c.total.release()
		return nil, err
	}
	h.mu.Lock()
	h.conns[cn] = struct{}{}
	h.mu.Unlock()
	return cn, nil
}

func (h *host) dial(ctx context.Context) (*conn, error) {
	d := &dialing{proxy: h.proxy}
	var alpn string
	ctx = context.WithValue(ctx, dialKey{}, d)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(s tls.ConnectionState, _ error) { alpn = s.NegotiatedProtocol },
	})
	stop := context.AfterFunc(ctx, d.abandon)
	cc, err := h.client.inner.NewClientConn(ctx, h.key.scheme, h.addr)
	if !stop() && err == nil {
		cc.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, explainTLS(err)
	}
	cn := &conn{
		host: h, cc: cc, raw: d.raw, dialed: d.dialed, rtt: d.took,
		born:   h.client.now(),
		shares: alpn == "h2" || cc.Available() > 1,
		limit:  1,
	}
	cn.lastUsed.Store(cn.born)
	cn.proven.Store(cn.born)
	cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.Err() != nil && !cn.closing.Load() {
			h.sweep()
		}
	})
	if cn.shares {
		cn.limit = unknownLimit
	}
	return cn, nil
}

// sweep takes idle connections out that net/http has found dead, and closed,
// before the guard could: it doesn't see the end of a socket that is closed here.
// It returns at once, since net/http calls from anywhere.
func (h *host) sweep() {
	if h.sweeping.Swap(true) {
		return
	}
	go func() {
		h.sweeping.Store(false)
		h.pool.ResetIf(func(cn *conn) bool { return cn.idle() && cn.cc.Err() != nil })
	}()
}

// newPool makes the host's pool.
func (h *host) newPool() error {
	c := h.client
	cfg := &c.cfg
	var err error
	h.pool, err = pool.New(pool.Config[*conn]{
		Open:                  h.open,
		Close:                 (*conn).close,
		NetConn:               func(cn *conn) net.Conn { return cn.raw },
		MaxConns:              cfg.MaxConnsPerHost,
		MinIdleConns:          cfg.MinIdleConnsPerHost,
		MaxWaiters:            cfg.MaxWaitersPerHost,
		MaxConcurrentOpens:    cfg.MaxConcurrentOpensPerHost,
		DetectWithin:          c.within,
		FreshFor:              c.fresh,
		OpenTimeout:           cfg.OpenTimeout,
		MaxConnLifetime:       cfg.MaxConnLifetime,
		MaxConnLifetimeJitter: cfg.MaxConnLifetimeJitter,
		MaxConnIdleTime:       cfg.MaxConnIdleTime,
		FailFast:              cfg.FailFast,
		AllowUnread:           true, // net/http reads, and knows better
		Classify:              classify,
		Guard:                 c.dialer.Guard(),
		Trace:                 cfg.Trace.ofPool(h.name),
	})
	return err
}

var _ http.RoundTripper = (*Client)(nil)
