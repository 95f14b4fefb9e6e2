package httpclient

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
)

const (
	labPort   = 8080
	labWithin = 5 * time.Second         // DetectWithin of the tests in labs
	labFresh  = 2500 * time.Millisecond // FreshFor, which follows
)

// lab is a network with a server, and what a test's client has to do with it.
type lab struct {
	*netlab.Lab
	k      kind
	url    string
	d      *dial.Dialer
	client *Client
	clock  *netlab.Clock

	mu     sync.Mutex
	dialed int
	deaths []death
	lossy  bool // a suspect was alive after all: the guard asks for more proof now
	closed map[pool.Reason]int
}

type death struct {
	health.StateChange
	at time.Time
}

var building sync.Mutex // one lab at a time, lest they starve the tests that run

// newLab makes a lab whose server serves h, and a Client on its other side.
func newLab(t *testing.T, k kind, net netlab.Config, h http.Handler, cfg Config) *lab {
	t.Helper()
	l := &lab{k: k, clock: netlab.NewClock(t), closed: map[pool.Reason]int{}}
	func() {
		building.Lock()
		defer building.Unlock()
		l.Lab = netlab.NewWith(t, net)
	}()
	l.url = urlOf(k, l.Server.Addr(labPort))
	if h != nil {
		serveOn(t, k, l.Server.Listen(t, labPort), &http.Server{Handler: h})
	}
	guard, err := health.NewGuard(health.GuardConfig{Dial: l.Client.Dialer(nil)})
	require.NoError(t, err)
	t.Cleanup(func() { guard.Close() })
	l.d, err = dial.New(dial.Config{DetectWithin: labWithin, Guard: guard, Trace: &dial.Trace{
		DialDone: func(_ context.Context, d dial.DialDone) {
			if d.Err == nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.dialed++
			}
		},
		ConnState: l.changed,
	}})
	require.NoError(t, err)
	t.Cleanup(func() { l.d.Close() })
	cfg.Dialer = l.d
	cfg.Trace = &Trace{
		ConnClosed: func(c ConnClosed) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.closed[c.Reason]++
		},
	}
	l.client = newClient(t, k, cfg)
	l.client.inner.DialContext = l.Client.Dialer(l.client.inner.DialContext)
	calm(l.client.inner)
	return l
}

// transport returns one that NewTransport has made.
func (l *lab) transport(t *testing.T) *http.Transport {
	t.Helper()
	tr, err := NewTransport(TransportConfig{Dialer: l.d, Transport: trusting(l.k)})
	require.NoError(t, err)
	tr.DialContext = l.Client.Dialer(tr.DialContext)
	calm(tr)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func (l *lab) changed(c health.StateChange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.To == health.Dead {
		l.deaths = append(l.deaths, death{c, time.Now()})
	} else if c.From == health.Suspect {
		l.lossy = true
	}
}

// count returns how many connections were dialed, and how many of them died.
func (l *lab) count() (dialed, dead int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dialed, len(l.deaths)
}

// limit is how much time of this machine's something may take that began then.
func (l *lab) limit(since time.Time, within time.Duration) time.Duration {
	return allowed(within) + l.clock.Lost(since)
}

// found is within what time a lost flow is to be found. Where packets get lost at
// other times too, as in a lab on a machine that is too busy, the guard is more
// careful, up to DetectWithin and the time for a last answer.
func (l *lab) found(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lossy {
		t.Log("a suspect was cleared before")
		return max(within, labWithin+time.Second)
	}
	return within
}

// keeps requires that no connection was given up, and nothing repeated.
func (l *lab) keeps(t *testing.T) {
	t.Helper()
	_, dead := l.count()
	assert.Zero(t, dead)
	assert.Zero(t, l.client.Stat().Retries)
	l.mu.Lock()
	defer l.mu.Unlock()
	assert.Empty(t, l.closed)
}

// fill leaves a Transport with n idle connections, or the one that HTTP/2 needs.
// The server must have a meeting of n.
func (l *lab) fill(t *testing.T, rt http.RoundTripper, n int) {
	t.Helper()
	for _, o := range l.atOnce(t, rt, "/meet", n).failed {
		require.NoError(t, o)
	}
	dialed, _ := l.count()
	if l.k == http2 {
		n = 1
	}
	require.Equal(t, n, dialed)
}

// outcome is what came of some requests.
type outcome struct {
	begun    time.Time // the first request
	requests int
	failed   []error
	first    time.Duration // from the first request's begin to the first success
	slowest  time.Duration
}

func (o *outcome) String() string {
	s := fmt.Sprintf("%d requests, %d failed, first success after %d ms, the slowest took %d ms",
		o.requests, len(o.failed), o.first.Milliseconds(), o.slowest.Milliseconds())
	for _, err := range o.failed {
		s += "; " + err.Error()
	}
	return s
}

func (o *outcome) add(took time.Duration, err error) {
	o.requests++
	o.slowest = max(o.slowest, took)
	if err != nil {
		o.failed = append(o.failed, err)
	} else if o.first == 0 {
		o.first = time.Since(o.begun)
	}
}

// inTurn makes GETs one after another until n have succeeded.
func (l *lab) inTurn(t *testing.T, rt http.RoundTripper, path string, n int) *outcome {
	t.Helper()
	o := &outcome{begun: time.Now()}
	for o.requests-len(o.failed) < n && time.Since(o.begun) < time.Minute {
		took, err := get(t.Context(), rt, l.url+path)
		o.add(took, err)
	}
	require.Equal(t, n, o.requests-len(o.failed), "%v", o)
	return o
}

// atOnce makes n GETs beside each other.
func (l *lab) atOnce(t *testing.T, rt http.RoundTripper, path string, n int) *outcome {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	o := &outcome{begun: time.Now()}
	for range n {
		wg.Go(func() {
			took, err := get(t.Context(), rt, l.url+path)
			mu.Lock()
			defer mu.Unlock()
			o.add(took, err)
		})
	}
	wg.Wait()
	return o
}

// passes waits until something has lasted for a time.
func passes(since time.Time, d time.Duration) { <-time.After(time.Until(since.Add(d))) }

// post makes a POST and returns what came of it.
func (l *lab) post(ctx context.Context, rt http.RoundTripper, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+path, strings.NewReader("x"))
	if err == nil {
		_, err = exchange(rt, req)
	}
	return err
}
