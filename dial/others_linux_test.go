package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// What these tests show is what connections gain that somebody else owns: a
// net/http client at its defaults, TLS, or code that reads and writes, with
// nothing of ours but the dialer.

var aMinute = flag.Bool("holdfast.minute", false, "let the pauses and outages last a minute that are shorter otherwise")

// othersWithin is the DetectWithin of these tests, and othersFresh the FreshFor
// that follows.
const (
	othersWithin = 5 * time.Second
	othersFresh  = 2500 * time.Millisecond
)

// others is a lab and the dialer that its client's programs use.
type others struct {
	*netlab.Lab
	d     *Dialer
	addr  string // of the server
	clock *netlab.Clock

	trust *tls.Config // for servers with TLS
	cert  tls.Certificate

	mu     sync.Mutex
	dialed []net.Conn
	deaths []death
	lossy  bool // a suspect was alive after all: the guard asks for more proof now
}

type death struct {
	health.StateChange
	at time.Time
}

var building sync.Mutex // one lab at a time, lest they starve the tests that run

func newOthers(t *testing.T, lab netlab.Config, cfg Config) *others {
	t.Helper()
	o := &others{clock: netlab.NewClock(t)}
	func() {
		building.Lock()
		defer building.Unlock()
		o.Lab = netlab.NewWith(t, lab)
	}()
	if cfg.DetectWithin == 0 {
		cfg.DetectWithin = othersWithin
	}
	cfg.Trace = &Trace{
		DialDone: func(_ context.Context, d DialDone) {
			if d.Err == nil {
				o.mu.Lock()
				defer o.mu.Unlock()
				o.dialed = append(o.dialed, d.Conn)
			}
		},
		ConnState: func(c health.StateChange) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if c.To == health.Dead {
				o.deaths = append(o.deaths, death{c, time.Now()})
			} else if c.From == health.Suspect {
				o.lossy = true
			}
		},
	}
	srv := tlsServer(t)
	o.cert = srv.cert
	o.trust = srv.client.Clone()
	o.trust.ServerName = "example.com"
	cfg.TLSConfig = o.trust
	o.d = labDialer(t, o.Lab, cfg)
	o.addr = o.Server.Addr(labPort)
	return o
}

// limit is how much time of this machine's something may take that began then.
func (o *others) limit(since time.Time, within time.Duration) time.Duration {
	return allowed(within) + o.clock.Lost(since)
}

// lost is within what time a lost flow is to be found. Where packets get lost at
// other times too, as in a lab on a machine that is too busy, the guard is more
// careful, up to DetectWithin and the time for a last answer.
func (o *others) lost(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lossy {
		t.Log("a suspect was cleared before")
		return max(within, othersWithin+slack)
	}
	return within
}

// count returns how many connections were dialled, and how many of these died.
func (o *others) count() (dialed, dead int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.dialed), len(o.deaths)
}

// died waits until n connections have died, and returns their deaths.
func (o *others) died(t *testing.T, n int, since time.Time, within time.Duration) []death {
	t.Helper()
	poll(within+10*time.Second, func() bool { _, dead := o.count(); return dead >= n })
	limit := o.limit(since, within)
	o.mu.Lock()
	defer o.mu.Unlock()
	require.GreaterOrEqual(t, len(o.deaths), n, "so many of %d must have died", len(o.dialed))
	first, last := o.deaths[0].at.Sub(since), o.deaths[n-1].at.Sub(since)
	t.Logf("%d died %d to %d ms after the fault", n, first.Milliseconds(), last.Milliseconds())
	require.LessOrEqual(t, last, limit)
	return append([]death(nil), o.deaths...)
}

// noticed waits until all who own a connection that died have read that and
// closed it, which they do at once. A request that is faster fails.
func (o *others) noticed(t *testing.T) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.deaths {
		raw, err := d.Conn.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		poll(5*time.Second, func() bool { return raw.Control(func(uintptr) {}) != nil })
		require.ErrorIs(t, raw.Control(func(uintptr) {}), net.ErrClosed)
	}
}

func (o *others) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := o.Client.Dial(t.Context(), o.d.DialContext, o.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// poll waits until something is so, but no longer than that.
func poll(within time.Duration, so func() bool) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !so() && time.Now().Before(end); {
		<-tick.C
	}
}

// kind is a way to use connections.
type kind string

const (
	http1 kind = "HTTP/1.1"
	http2 kind = "HTTP/2"
	h2c   kind = "HTTP/2 without TLS"
)

// serve serves HTTP of a kind on the server until the test ends.
func (o *others) serve(t *testing.T, k kind, ln net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{o.cert}}
	var running sync.WaitGroup
	running.Go(func() {
		if k == http2 {
			_ = srv.ServeTLS(ln, "", "")
		} else {
			_ = srv.Serve(ln)
		}
	})
	t.Cleanup(func() {
		srv.Close()
		running.Wait()
	})
}

// client returns a client at its defaults, for a server of that kind, and the
// URL of that.
func (o *others) client(t *testing.T, k kind) (*http.Client, string) {
	t.Helper()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.DialContext = o.Client.Dialer(o.d.DialContext)
	url := "http://" + o.addr
	switch k {
	case http2:
		tr.TLSClientConfig = o.trust
		url = "https://" + o.addr
	case h2c:
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}, url
}

// reply makes a request and returns what came of it, in how many milliseconds.
func reply(ctx context.Context, c *http.Client, method, url string, body io.Reader) (answer string, ms int64, err error) {
	begin := time.Now()
	defer func() { ms = time.Since(begin).Milliseconds() }()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return "", 0, err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = errors.New(res.Status)
	}
	return string(b), 0, err
}

// post returns a function that makes a request, which no client repeats by itself,
// and waits for as long as it takes.
func post(t *testing.T, c *http.Client, url string) func() error {
	return func() error {
		_, _, err := reply(t.Context(), c, http.MethodPost, url, strings.NewReader("x"))
		return err
	}
}

// get makes a request as a careful user does: with 5 s for the answer.
func get(t *testing.T, c *http.Client, url string) (ms int64, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	answer, ms, err := reply(ctx, c, http.MethodGet, url, nil)
	if err == nil && answer != "ok" {
		err = errors.New("the answer is " + answer)
	}
	return ms, err
}

// meeting is a handler that answers requests to /meet when n of them wait, and
// all others at once.
func meeting(n int) http.Handler {
	var mu sync.Mutex
	var waiting int
	met := make(chan struct{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/meet" {
			mu.Lock()
			if waiting++; waiting == n {
				close(met)
			}
			mu.Unlock()
			select {
			case <-met:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "ok")
	})
}

// meet leaves a client with n idle connections.
func meet(t *testing.T, c *http.Client, url string, n int) {
	t.Helper()
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := get(t, c, url+"/meet")
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
}

// forever is a handler that reads the request and never answers.
func forever(arrived chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	})
}

// silent requires that err is what a connection ends with that was silent: the
// guard's reset or the kernel's time-out. If a read and a write wait, the second
// reads ENOTCONN or EPIPE, or that its owner closed the connection, having read
// the first's. None reads an end of file.
func silent(t *testing.T, err error) {
	t.Helper()
	for _, want := range []error{syscall.ECONNRESET, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.EPIPE, net.ErrClosed} {
		if errors.Is(err, want) {
			return
		}
	}
	t.Errorf("this is no error of a silent connection's: %v", err)
}

// lostFlow requires that a connection was ended because its flow was lost, or,
// where more proof was asked for or all takes longer, at DetectWithin.
func (o *others) lostFlow(t *testing.T, cause error) {
	t.Helper()
	late := o.limit(time.Now().Add(-2*othersWithin), 0) > 0
	o.mu.Lock()
	defer o.mu.Unlock()
	var silence *health.SilenceError
	if assert.ErrorAs(t, cause, &silence) {
		assert.True(t, silence.Fresh || o.lossy || late, "%v", cause)
	}
}

// together runs tests beside each other, however many go test would: they mostly
// wait.
func together(t *testing.T, tests map[string]func(t *testing.T)) {
	var wg sync.WaitGroup
	for name, test := range tests {
		wg.Go(func() { t.Run(name, test) })
	}
	wg.Wait()
}

// endsWithin waits for the error with which something ends, and requires that it
// is one of silence and comes in time.
func (o *others) endsWithin(t *testing.T, ch <-chan error, since time.Time, within time.Duration) {
	t.Helper()
	select {
	case err := <-ch:
		took := time.Since(since)
		t.Logf("%d ms after the fault: %v", took.Milliseconds(), err)
		silent(t, err)
		assert.LessOrEqual(t, took, o.limit(since, within))
	case <-time.After(within + 10*time.Second):
		t.Fatal("still waiting")
	}
}

// after returns what f returns, when it has.
func after(f func() error) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	return ch
}

// endlessly is a body without end.
func endlessly() io.Reader { return io.MultiReader(strings.NewReader("x"), endless{}) }
