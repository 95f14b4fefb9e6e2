package httpclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

// Client is a RoundTripper with a pool of connections for each host, see the
// package's overview. What it holds, pools and goroutines, is there for hosts
// that requests were sent to lately; Close ends it. Its methods may be called
// concurrently.
type Client struct {
	cfg     Config // complete
	dialer  *dial.Dialer
	owns    bool // dialer is the Client's to close
	within  time.Duration
	fresh   time.Duration
	proxy   func(*http.Request) (*url.URL, error)
	inner   *http.Transport // makes the connections
	plain   *http.Transport // does what is no pool's business
	start   time.Time
	total   total
	retries atomic.Int64

	mu     sync.RWMutex
	hosts  map[hostKey]*host
	ending []*host // what Close waits for
	closed bool
	keeper keeper
}

// New checks cfg, all of it at once, and returns a Client. Nothing is dialed
// before the first request.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Client{owns: cfg.Dialer == nil, start: time.Now(), hosts: make(map[hostKey]*host)}
	given := cfg.Dialer
	if given == nil && cfg.DetectWithin >= 0 {
		d, err := dial.New(dial.Config{
			DetectWithin: cfg.DetectWithin,
			Timeout:      min(orDefault(cfg.DetectWithin, defaultDetectWithin), maxDialTimeout),
		})
		if err != nil {
			return nil, fmt.Errorf("httpclient: Config: %w", err)
		}
		given, cfg.DetectWithin = d, 0
	}
	plain, d, err := newTransport("Config", TransportConfig{DetectWithin: cfg.DetectWithin, Dialer: given, Transport: cfg.Transport})
	if err != nil {
		return nil, err
	}
	c.dialer, c.plain = d, plain
	c.within, c.fresh = d.Config().DetectWithin, d.Config().FreshFor
	c.cfg = cfg.complete()
	if c.cfg.OpenTimeout == 0 {
		c.cfg.OpenTimeout = d.Config().Timeout + max(plain.TLSHandshakeTimeout, time.Second)
	}
	c.total.init(c.cfg.MaxConns, c)
	c.inner = c.innerTransport()
	// So that what a pool finds wrong is found now.
	probe := &host{client: c}
	pc := probe.poolConfig()
	pc.MinIdleConns, pc.Trace = 0, nil
	p, err := pool.New(pc)
	if err != nil {
		return nil, fmt.Errorf("httpclient: Config: %w", err)
	}
	_ = p.Close(context.Background())
	return c, nil
}

// innerTransport returns what makes single connections. It must not limit, age or
// count them: net/http doesn't expect that of such.
func (c *Client) innerTransport() *http.Transport {
	t := c.plain.Clone()
	c.proxy = t.Proxy
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost, t.IdleConnTimeout = 0, 0, 0
	// NewClientConn asks for a proxy with a made-up request; ours were asked with
	// real ones.
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		if d, ok := r.Context().Value(dialKey{}).(*dialing); ok {
			return d.proxy, nil
		}
		return nil, nil
	}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		begun := time.Now()
		conn, err := c.dialer.DialContext(ctx, network, addr)
		if d, ok := ctx.Value(dialKey{}).(*dialing); ok && err == nil {
			d.got(conn, addr, time.Since(begun))
		}
		return conn, err
	}
	return t
}

// HTTPClient returns an http.Client that uses c. Each call returns a new one,
// whose other fields are the caller's to set.
func (c *Client) HTTPClient() *http.Client { return &http.Client{Transport: c} }

// Guard returns the guard that watches the connections.
func (c *Client) Guard() *health.Guard { return c.dialer.Guard() }

// RoundTrip sends a request and returns the response to it, as
// http.RoundTripper says. As with an http.Transport, the connection is free for
// others when the response's body was read to its end, or closed, or when the
// request's context has ended. Errors are of type *[Error], but those about the
// request itself.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.Header == nil || direct(req) {
		return c.plain.RoundTrip(req)
	}
	if req.URL.Host == "" {
		closeBody(req)
		return nil, errors.New("http: no Host in request URL")
	}
	h, err := c.hostOf(req)
	if err != nil {
		closeBody(req)
		return nil, &Error{Host: Host{Scheme: req.URL.Scheme, Addr: req.URL.Host}, Err: err, proven: true}
	}
	h.budget.deposit()
	out := outgoing{req: req, current: req.Body}
	since, proven, free := int64(0), true, 0
	for n := 1; ; n++ {
		resp, a := h.try(&out, since)
		if a.err == nil {
			return resp, nil
		}
		proof := !a.sent || health.SafeToRetry(a.err)
		proven = proven && proof
		if !h.repeats(&out, a, proof, n, &free) {
			out.close()
			h.leave(c.now())
			letTimeOut(req, a.err)
			return nil, &Error{Host: h.name, Attempts: n, Reused: a.reused, Err: bare(a.err), proven: proven}
		}
		if since = c.now(); proof && a.shares { // nothing was wrong with the path
			since = 0
		} else if n-free == c.cfg.MaxAttempts-1 { // the last one is to be on a connection of its own age
			h.pool.RetireIf(pool.ReasonReset, func(cn *conn) bool { return cn.born < since && cn.idle() })
		}
		c.retries.Add(1)
		if t := c.cfg.Trace; t.Retry != nil {
			t.Retry(req.Context(), Retry{Host: h.name, Attempt: n, Err: bare(a.err)})
		}
	}
}

// attempt is how one attempt went.
type attempt struct {
	err    error
	sent   bool // a connection was had
	reused bool
	shares bool // HTTP/2
}

// try sends a request once.
func (h *host) try(out *outgoing, since int64) (*http.Response, attempt) {
	ctx := out.req.Context()
	if ctx.Err() != nil {
		return nil, attempt{err: context.Cause(ctx)}
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(h.hop())
	}
	cn, err := h.acquire(ctx, since)
	if err != nil {
		if errors.Is(err, pool.ErrClosed) {
			err = ErrClosed
		}
		return nil, attempt{err: err}
	}
	a := attempt{sent: true, reused: cn.begun.Load() > 1, shares: cn.shares}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(cn.gotConn(a.reused))
	}
	req, err := out.next(cn.shares)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // now, net/http would end the connection for it
	}
	if err != nil {
		cn.unused()
		return nil, attempt{err: err}
	}
	var cancel context.CancelCauseFunc
	if _, ends := ctx.Deadline(); !ends && !cn.shares && (ctx.Done() != nil || legacyCancel(req) != nil) {
		// After an error ClientConn leaves its own context hanging on this one.
		ctx, cancel = context.WithCancelCause(ctx)
		req = req.WithContext(ctx)
	}
	resp, err := cn.cc.RoundTrip(req)
	if err != nil {
		a.err = h.client.explain(cn, err)
		if cancel != nil {
			cancel(err)
		}
		cn.done(ended{err: a.err}, nil)
		return nil, a
	}
	resp.Request = out.req
	if out.tracked != nil {
		out.tracked.settle()
	}
	h.received(cn, resp, cancel)
	return resp, a
}

// received sees to it that the connection is free when the response has ended.
func (h *host) received(cn *conn, resp *http.Response, cancel context.CancelCauseFunc) {
	cn.answered()
	if !cn.shares {
		cn.heed(resp.Header)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if cancel != nil {
			cancel(errDone)
		}
		cn.hijack()
		h.leave(h.client.now())
		return
	}
	b := &body{ReadCloser: resp.Body, req: resp.Request, conn: cn, cancel: cancel}
	if reflect.TypeOf(resp.Body).Size() == 0 { // http.NoBody, or what HTTP/2 has for it: nobody needs to close that
		b.finish(ended{})
		return
	}
	if b.req.Context().Done() != nil {
		cn.keep(b)
	}
	resp.Body = b
}

// explain adds to an error that it was the guard who ended the connection.
func (c *Client) explain(cn *conn, err error) error {
	cause := c.Guard().Cause(cn.raw)
	if slow, ok := errors.AsType[*health.SlowReaderError](cause); ok {
		return severed{err, slow}
	}
	if silence, ok := errors.AsType[*health.SilenceError](cause); ok {
		return severed{err, silence}
	}
	return err
}

// severed is an error together with why the guard has brought it about.
type severed struct{ err, cause error }

func (e severed) Error() string   { return bare(e.err).Error() + ": " + e.cause.Error() }
func (e severed) Unwrap() []error { return []error{e.cause, e.err} }

// alive asks a peer's kernel, where that can be done.
func (c *Client) alive(ctx context.Context, raw net.Conn) (bool, error) {
	states, err := c.Guard().Check(ctx, raw)
	if err != nil {
		return false, err
	}
	return states[0] != health.Suspect && states[0] != health.Dead, nil
}

// now is the Client's clock.
func (c *Client) now() int64 { return int64(time.Since(c.start)) + 1 }

// hop is the host:port that a connection leads to at first.
func (h *host) hop() string {
	if h.proxy != nil {
		return h.proxy.Host
	}
	return h.addr
}

// CloseIdleConnections closes the connections that no request uses. It is what
// http.Client's method of this name calls.
func (c *Client) CloseIdleConnections() {
	c.plain.CloseIdleConnections()
	for _, h := range c.all() {
		h.pool.RetireIf(pool.ReasonIdle, (*conn).idle)
	}
}

// Close ends the Client: requests fail from now on, idle connections are closed,
// and it waits for the others' requests to end, until their responses were read.
// If ctx ends first, they are cut off, and the error says how many there were. It
// closes the dialer that New made. Close may be called more than once.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	for _, h := range c.hosts {
		c.ending = append(c.ending, h)
	}
	c.hosts = nil
	ending := c.ending
	c.mu.Unlock()
	c.keeper.stop()
	c.plain.CloseIdleConnections()
	errs := make([]error, len(ending))
	var wg sync.WaitGroup
	for i, h := range ending {
		wg.Go(func() {
			if err := h.close(ctx); err != nil {
				errs[i] = fmt.Errorf("%v: %w", h.name, err)
			}
		})
	}
	wg.Wait()
	if c.owns {
		errs = append(errs, c.dialer.Close())
	}
	return errors.Join(errs...)
}

// close ends a host that is in no map any more.
func (h *host) close(ctx context.Context) error {
	h.mu.Lock()
	h.failLocked(ErrClosed)
	h.mu.Unlock()
	// The keeper has ended, which looks after responses that nobody closes.
	swept := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(swept)
		ticker := time.NewTicker(sweepEvery)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				h.sweep()
			}
		}
	}()
	err := h.pool.Close(ctx)
	close(stop)
	<-swept
	return err
}
