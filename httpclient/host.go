package httpclient

import (
	"container/list"
	"context"
	"crypto/tls"
	"maps"
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
	name   Host
	addr   string // host:port, what to dial
	proxy  *url.URL
	pool   *pool.Pool[*conn]

	active   atomic.Int64 // requests, until their response's end
	requests atomic.Int64
	lastUsed atomic.Int64
	speaks   atomic.Uint32 // protocol
	waiting  atomic.Int64  // waiters.Len()
	budget   budget
	ready    chan struct{} // closed once there is a pool

	mu        sync.Mutex
	conns     map[*conn]struct{} // all that exist
	leases    int                // connections in use that several requests may share
	shared    []*conn            // those of them that had room when last looked at
	waiters   list.List          // of *waiter, first come first
	acquiring int                // requests that ask the pool
	first     int                // of them, those that never were in the queue
	limit     int                // of streams on a connection, as far as known
	openErr   error              // why the last opening failed, if it did
	liveUntil int64              // when the last connection was lost
	settling  *time.Timer
	names     map[string]*addresses // for refreshes
}

// forget is called when a connection is gone.
func (h *host) forget(cn *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, cn)
	h.liveUntil = h.client.now()
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
func (h *host) open(ctx context.Context) (cn *conn, err error) {
	c := h.client
	<-h.ready
	if err := c.total.acquire(ctx, h); err != nil {
		return nil, err
	}
	defer func() {
		if cn == nil { // also when code of the user's panics
			c.total.release()
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.openErr = err; cn != nil {
			h.conns[cn] = struct{}{}
		}
	}()
	if c.total.slots != nil { // waiting was none of the opening's time
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.OpenTimeout)
		defer cancel()
	}
	return h.dial(ctx)
}

func (h *host) dial(ctx context.Context) (*conn, error) {
	d := &dialing{proxy: h.proxy}
	var alpn string
	ctx = context.WithValue(ctx, dialKey{}, d)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(s tls.ConnectionState, _ error) { alpn = s.NegotiatedProtocol },
	})
	stop := context.AfterFunc(ctx, d.abandon)
	cc, err := h.client.inner.NewClientConn(ctx, h.name.Scheme, h.addr)
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
	if cn.shares {
		cn.limit = unknownLimit
	}
	return cn, nil
}

// sweep takes idle connections out that net/http has found dead, and closed,
// before the guard could: it doesn't see the end of a socket that is closed here.
// It also ends responses that nobody has closed though their context has ended.
func (h *host) sweep() {
	h.pool.RetireIf(pool.ReasonDead, func(cn *conn) bool { return cn.idle() && cn.cc.Err() != nil })
	h.mu.Lock()
	conns := slices.Collect(maps.Keys(h.conns))
	h.mu.Unlock()
	for _, cn := range conns {
		for _, b := range cn.abandoned() {
			b.finish(ended{err: context.Cause(b.req.Context()), spoiled: true})
		}
	}
	h.dispatch()
}

// newPool makes the host's pool.
func (h *host) newPool() (err error) {
	h.pool, err = pool.New(h.poolConfig())
	return err
}

func (h *host) poolConfig() pool.Config[*conn] {
	c := h.client
	cfg := &c.cfg
	return pool.Config[*conn]{
		Open:                  h.open,
		Close:                 (*conn).close,
		NetConn:               func(cn *conn) net.Conn { return cn.raw },
		MaxConns:              cfg.MaxConnsPerHost,
		MinIdleConns:          cfg.MinIdleConnsPerHost,
		MaxWaiters:            cfg.MaxWaitersPerHost,
		MaxConcurrentOpens:    cfg.MaxConcurrentOpensPerHost,
		DetectWithin:          c.within,
		FreshFor:              c.fresh,
		OpenTimeout:           cfg.OpenTimeout + c.total.patience(),
		MaxConnLifetime:       cfg.MaxConnLifetime,
		MaxConnLifetimeJitter: cfg.MaxConnLifetimeJitter,
		MaxConnIdleTime:       cfg.MaxConnIdleTime,
		FailFast:              cfg.FailFast,
		AllowUnread:           true, // net/http reads, and knows better
		Classify:              classify,
		Guard:                 c.dialer.Guard(),
		Trace:                 cfg.Trace.ofPool(h.name),
	}
}

var _ http.RoundTripper = (*Client)(nil)
