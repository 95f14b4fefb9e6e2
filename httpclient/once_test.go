package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func listenLocal(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return ln
}

// executor is a handler that counts how often each id is executed, which it is as
// soon as the request was read.
type executor struct {
	do func(id string, nth int, r *http.Request)

	n     atomic.Int64
	mu    sync.Mutex
	times map[string]int
}

func newExecutor(do func(id string, nth int, r *http.Request)) *executor {
	return &executor{do: do, times: map[string]int{}}
}

func (e *executor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id, _, _ := strings.Cut(string(b), "\n")
	e.mu.Lock()
	e.times[id]++
	nth := e.times[id]
	e.mu.Unlock()
	e.n.Add(1)
	if e.do != nil {
		e.do(id, nth, r)
	}
	_, _ = io.WriteString(w, "ok")
}

// executed is how many requests were.
func (e *executor) executed() int { return int(e.n.Load()) }

func (e *executor) all() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.times)
}

// manner is how a POST is made.
type manner string

const (
	withGetBody    manner = "with GetBody"
	withoutGetBody manner = "without GetBody"
	withKey        manner = "with Idempotency-Key"
)

// post has an id executed.
func (e *executor) post(ctx context.Context, rt http.RoundTripper, url, id string, m manner) error {
	return postBody(ctx, rt, url, id, id, m)
}

func postBody(ctx context.Context, rt http.RoundTripper, url, id, content string, m manner) error {
	body := io.Reader(strings.NewReader(content))
	if m == withoutGetBody {
		body = struct{ io.Reader }{body}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return err
	}
	if m == withKey {
		req.Header.Set("Idempotency-Key", id)
	}
	answer, err := exchange(rt, req)
	if err == nil && answer != "ok" {
		err = errors.New("the answer is " + answer)
	}
	return err
}

// What the server's limit is nobody knows yet.
func TestTheFirstRequestsToAnHTTP2HostShareOneConnection(t *testing.T) {
	t.Parallel()
	const n = 20
	ln := listenLocal(t, "127.0.0.1:0")
	serveOn(t, http2, ln, &http.Server{Handler: meeting(n, nil)})
	c := newClient(t, http2, Config{})
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := get(t.Context(), c, urlOf(http2, ln.Addr().String())+"/meet")
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	assert.EqualValues(t, 1, c.Stat().Hosts[0].Conns.Opened)
}

// onlyOnce requires that no id was executed twice that may not be.
func (e *executor) onlyOnce(t *testing.T) {
	t.Helper()
	for id, times := range e.all() {
		if id != "" && !strings.HasPrefix(id, string(withKey)) { // that is, but for GETs
			assert.LessOrEqual(t, times, 1, id)
		}
	}
}

// storm is POSTs and GETs of all manners by many, while something happens to
// their server. It leaves no room for tests beside it.
type storm struct {
	ex     *executor
	client *Client
	url    string
	over   atomic.Bool

	mu        sync.Mutex
	succeeded map[string]bool
	failed    map[manner]int
	done      map[manner]int
	cut       int // responses
}

func newStorm(t *testing.T, k kind, cfg Config) *storm {
	t.Helper()
	return &storm{
		ex: newExecutor(takes), client: newClient(t, k, cfg),
		succeeded: map[string]bool{}, failed: map[manner]int{}, done: map[manner]int{},
	}
}

const get1 manner = "GET"

// blow begins to make requests, in gusts of 20 at once, one of eight with a long
// body. Between them nothing is in use.
func (s *storm) blow(t *testing.T) *sync.WaitGroup {
	blown := &sync.WaitGroup{}
	blown.Go(func() {
		manners := [...]manner{withGetBody, withoutGetBody, withKey, get1}
		for gust := 0; !s.over.Load(); gust++ {
			var wg sync.WaitGroup
			for worker := range 20 {
				wg.Go(func() {
					for i := range len(manners) {
						m := manners[(worker+i)%len(manners)]
						s.one(t.Context(), m, fmt.Sprintf("%s %d %d %d", m, gust, worker, i), (gust+worker)%8 == 0)
					}
				})
			}
			wg.Wait()
		}
	})
	return blown
}

func (s *storm) one(ctx context.Context, m manner, id string, long bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience) // it isn't time that is to be short
	defer cancel()
	var err error
	if m == get1 {
		_, err = getWithin(ctx, s.client, s.url, 2*patience)
	} else {
		content := id + "\n"
		if long {
			content += strings.Repeat("x", 256<<10)
		}
		err = postBody(ctx, s.client, s.url, id, content, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[m]++
	if isCutShort(err) {
		s.cut++
	} else if err != nil {
		s.failed[m]++
	} else if m != get1 {
		s.succeeded[id] = true
	}
}

// abate ends it, and requires that what may not be executed twice wasn't, and what
// has succeeded was.
func (s *storm) abate(t *testing.T, blown *sync.WaitGroup) {
	t.Helper()
	s.over.Store(true)
	blown.Wait()
	s.ex.onlyOnce(t)
	all, twice := s.ex.all(), 0
	for id := range s.succeeded {
		assert.NotZero(t, all[id], "%s has succeeded without having been executed", id)
		if all[id] > 1 {
			twice++
		}
	}
	t.Logf("%v, of which failed %v, and %d responses were cut short; repeated: %d; with a key, %d executed again", s.done, s.failed, s.cut, s.client.Stat().Retries, twice)
}

// breaking is a listener whose connections can be broken.
type breaking struct {
	net.Listener
	mu    sync.Mutex
	conns []*net.TCPConn
}

func (l *breaking) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c.(*net.TCPConn))
	return c, nil
}

// breakOne ends any of the connections, by a reset or by an end in good order.
func (l *breaking) breakOne() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) == 0 {
		return
	}
	i := rand.IntN(len(l.conns))
	c := l.conns[i]
	l.conns = append(l.conns[:i], l.conns[i+1:]...)
	if rand.IntN(2) == 0 {
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}

// takes is for a handler that takes some time.
func takes(_ string, _ int, r *http.Request) {
	select {
	case <-time.After(rand.N(4 * time.Millisecond)):
	case <-r.Context().Done():
	}
}

func TestNoPOSTIsExecutedTwiceWhileConnectionsBreakAtAnyMoment(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		s := newStorm(t, k, Config{})
		ln := &breaking{Listener: listenLocal(t, "127.0.0.1:0")}
		serveOn(t, k, ln, &http.Server{Handler: s.ex})
		s.url = urlOf(k, ln.Addr().String())
		blown := s.blow(t)
		for range 60 {
			until := s.ex.executed() + 5 + rand.IntN(40)
			eventually(time.Second, func() bool { return s.ex.executed() > until })
			ln.breakOne()
		}
		s.abate(t, blown)
		assert.NotZero(t, s.failed[withGetBody], "so many can't have been lucky")
		assert.NotZero(t, s.client.Stat().Retries)
	})
}

func TestNoPOSTIsExecutedTwiceThroughRestarts(t *testing.T) {
	for _, k := range []kind{http1, http2} {
		for _, orderly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, in good order %v", k, orderly), func(t *testing.T) {
				throughRestarts(t, k, orderly)
			})
		}
	}
}

func throughRestarts(t *testing.T, k kind, orderly bool) {
	s := newStorm(t, k, Config{})
	ln := listenLocal(t, "127.0.0.1:0")
	addr := ln.Addr().String()
	s.url = urlOf(k, addr)
	blown := s.blow(t)
	for range 4 {
		srv := &http.Server{Handler: s.ex}
		serveOn(t, k, ln, srv)
		from := s.ex.executed()
		require.True(t, eventually(20*time.Second, func() bool { return s.ex.executed() > from+500 }))
		if orderly {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			assert.NoError(t, srv.Shutdown(ctx))
			cancel()
		}
		srv.Close()
		require.True(t, eventually(20*time.Second, func() bool {
			var err error
			ln, err = net.Listen("tcp", addr)
			return err == nil
		}))
	}
	serveOn(t, k, ln, &http.Server{Handler: s.ex})
	s.abate(t, blown)
	assert.Zero(t, s.failed[get1])
	assert.Zero(t, s.failed[withKey])
	if orderly && k == http2 {
		assert.Zero(t, s.failed[withGetBody], "the server has said what it didn't execute")
	}
}

// With HTTP/2 that is a GOAWAY, and what was sent after its last stream is proven
// not to have been executed: many requests at once, and no share of the budget.
func TestNoPOSTIsExecutedTwiceWhenTheServerSendsConnectionsAway(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		s := newStorm(t, k, Config{RetryBudget: -1, MaxAttempts: 5})
		ln := listenLocal(t, "127.0.0.1:0")
		s.url = urlOf(k, ln.Addr().String())
		serveOn(t, k, ln, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if rand.IntN(100) == 0 {
				w.Header().Set("Connection", "close")
			}
			s.ex.ServeHTTP(w, r)
		})})
		blown := s.blow(t)
		// A busy machine may need a minute for all of them.
		eventually(20*time.Second, func() bool { return s.ex.executed() > 8000 })
		assert.Greater(t, s.ex.executed(), 200)
		s.abate(t, blown)
		for _, m := range []manner{withGetBody, withKey, get1} {
			assert.Zero(t, s.failed[m], m)
		}
	})
}
