package dial

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The router forgets the flows, and new ones work. Without the dialer, HTTP/2
// fails 187 requests in a row then, for a quarter of an hour.
func TestALostFlowIsEndedWhileOthersWork(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"20 idle HTTP/1.1 connections":                func(t *testing.T) { lostIdle(t, http1, 20) },
		"an idle HTTP/2 connection":                   func(t *testing.T) { lostIdle(t, http2, 1) },
		"20 HTTP/1.1 connections, requests go on":     func(t *testing.T) { lostInUse(t, http1, 20) },
		"an HTTP/2 connection, requests go on":        func(t *testing.T) { lostInUse(t, http2, 1) },
		"HTTP/2 with a request in flight":             func(t *testing.T) { lostInFlight(t, http2, true) },
		"HTTP/2 without TLS, a request in flight":     func(t *testing.T) { lostInFlight(t, h2c, true) },
		"HTTP/2 with a request that doesn't arrive":   func(t *testing.T) { lostInFlight(t, http2, false) },
		"a hijacked connection":                       lostHijacked,
		"GETs are repeated unseen, POSTs never twice": lostRequests,
	})
}

// lostIdle: when the connections are severed, which takes FreshFor and 3 s at
// most, nothing fails any more.
func lostIdle(t *testing.T, k kind, n int) {
	o := newOthers(t, netlab.Config{NAT: true}, Config{})
	o.serve(t, k, o.Server.Listen(t, labPort), meeting(n))
	c, url := o.client(t, k)
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = n
	meet(t, c, url, n)
	dialed, _ := o.count()
	require.Equal(t, n, dialed)
	o.ForgetNAT()
	lost := time.Now()
	for _, d := range o.died(t, n, lost, o.lost(t, othersFresh+3*time.Second)) {
		o.lostFlow(t, d.Cause)
		assert.True(t, d.Severed)
	}
	o.noticed(t)
	var worst int64
	for range n {
		ms, err := get(t, c, url)
		require.NoError(t, err)
		worst = max(worst, ms)
	}
	t.Logf("then no failure, at most %d ms", worst)
	dialed, dead := o.count()
	assert.Equal(t, n, dead)
	assert.Equal(t, n+1, dialed)
}

// lostInUse: requests go on meanwhile, and at most the first of them fails.
func lostInUse(t *testing.T, k kind, n int) {
	o := newOthers(t, netlab.Config{NAT: true}, Config{})
	o.serve(t, k, o.Server.Listen(t, labPort), meeting(n))
	c, url := o.client(t, k)
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = n
	meet(t, c, url, n)
	o.ForgetNAT()
	lost := time.Now()
	failed, succeeded := 0, 0
	for succeeded < 2*n || time.Since(lost) < othersFresh+3*time.Second {
		ms, err := get(t, c, url)
		switch {
		case err != nil:
			failed++
			t.Logf("failed after %d ms: %v", ms, err)
		case succeeded == 0:
			t.Logf("the first success is %d ms after the loss, the request took %d ms", time.Since(lost).Milliseconds(), ms)
			fallthrough
		default:
			succeeded++
		}
		if promised := othersFresh + 3*time.Second; failed == 2 {
			require.Greater(t, o.limit(lost, o.lost(t, promised)), promised, "the first had its 5 s before the guard had its time")
		}
		require.LessOrEqual(t, failed, 2)
	}
	_, dead := o.count()
	t.Logf("%d requests failed, %d didn't, %d connections ended", failed, succeeded, dead)
	assert.Contains(t, []int{n, n - failed}, dead, "those that were lost, and no other, but for one that was closed here")
}

// lostInFlight: the request fails at DetectWithin at the latest, the next one
// succeeds at once. If it arrives, the peer owes the reply.
func lostInFlight(t *testing.T, k kind, arrives bool) {
	o := newOthers(t, netlab.Config{NAT: true}, Config{})
	arrived := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.Handle("/", meeting(1))
	mux.Handle("/wait", forever(arrived))
	o.serve(t, k, o.Server.Listen(t, labPort), mux)
	c, url := o.client(t, k)
	_, err := get(t, c, url)
	require.NoError(t, err)
	ask := post(t, c, url+"/wait")
	var asked <-chan error
	if arrives {
		asked = after(ask)
		<-arrived
	}
	o.ForgetNAT()
	lost := time.Now()
	if !arrives {
		asked = after(ask)
	}
	o.endsWithin(t, asked, lost, o.lost(t, othersWithin))
	ms, err := get(t, c, url)
	require.NoError(t, err)
	t.Logf("the next one took %d ms", ms)
	assert.Less(t, ms, o.limit(lost, time.Second).Milliseconds())
	o.lostFlow(t, o.died(t, 1, lost, othersWithin+slack)[0].Cause)
}

// lostHijacked: one connection is lost, and another, to somebody else, as quiet
// and as old, is left alone.
func lostHijacked(t *testing.T) {
	o := newOthers(t, netlab.Config{NAT: true, Servers: 2}, Config{})
	for _, s := range o.Servers {
		o.serve(t, http1, s.Listen(t, labPort), http.HandlerFunc(upgrade))
	}
	c, url := o.client(t, http1)
	say := func(c io.ReadWriter) {
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	open := func(url string) io.ReadWriter {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		res, err := c.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		t.Cleanup(func() { res.Body.Close() })
		conn := res.Body.(io.ReadWriter)
		say(conn)
		return conn
	}
	gone := open(url)
	kept := open("http://" + o.Servers[1].Addr(labPort))
	read := after(func() error { _, err := gone.Read(make([]byte, 1)); return err })
	o.Server.ForgetNAT()
	lost := time.Now()
	o.endsWithin(t, read, lost, o.lost(t, othersFresh+3*time.Second))
	o.lostFlow(t, o.died(t, 1, lost, othersWithin+slack)[0].Cause)
	say(kept)
	_, dead := o.count()
	assert.Equal(t, 1, dead)
}

// upgrade is a handler that makes of the connection what a websocket's does.
func upgrade(w http.ResponseWriter, _ *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(c, rw)
	}
}

// counting is a handler that counts how often requests are executed, by their
// body's or else their path's name. The first time each it answers when let.
type counting struct {
	mu    sync.Mutex
	times map[string]int
	let   chan struct{}
}

func (h *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	name := r.Method + " " + r.URL.Path
	h.times[name]++
	first := h.times[name] == 1
	h.mu.Unlock()
	if first && strings.HasPrefix(r.URL.Path, "/hold/") {
		select {
		case <-h.let:
		case <-r.Context().Done():
		}
	}
	_, _ = io.WriteString(w, "ok")
}

func (h *counting) executed() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, times := range h.times {
		n += times
	}
	return n
}

// lostRequests: all requests are executed, and all replies lost.
func lostRequests(t *testing.T) {
	const n = 10 // of each
	o := newOthers(t, netlab.Config{NAT: true}, Config{})
	h := &counting{times: map[string]int{}, let: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("/meet", meeting(2*n))
	mux.Handle("/", h)
	o.serve(t, http1, o.Server.Listen(t, labPort), mux)
	c, url := o.client(t, http1)
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = 2 * n
	meet(t, c, url, 2*n)

	gets, posts := make(chan error, n), make(chan error, n)
	for i := range n {
		go func() {
			_, _, err := reply(t.Context(), c, http.MethodGet, fmt.Sprint(url, "/hold/", i), nil)
			gets <- err
		}()
		go func() {
			_, _, err := reply(t.Context(), c, http.MethodPost, fmt.Sprint(url, "/hold/", i), strings.NewReader("x"))
			posts <- err
		}()
	}
	poll(5*time.Second, func() bool { return h.executed() == 2*n })
	require.Equal(t, 2*n, h.executed())
	o.ForgetNAT()
	lost := time.Now()
	close(h.let)
	for range n {
		require.NoError(t, <-gets)
	}
	t.Logf("%d GETs had their reply %d ms after the loss", n, time.Since(lost).Milliseconds())
	for range n {
		o.endsWithin(t, posts, lost, o.lost(t, othersWithin))
	}
	for i := range n {
		assert.Equal(t, 1, h.times[fmt.Sprint("POST /hold/", i)])
		assert.Equal(t, 2, h.times[fmt.Sprint("GET /hold/", i)], "the user has noticed nothing")
	}
	for i := range 2 * n {
		_, ms, err := reply(t.Context(), c, http.MethodPost, fmt.Sprint(url, "/next/", i), strings.NewReader("x"))
		require.NoError(t, err, "%d ms", ms)
		assert.Equal(t, 1, h.times[fmt.Sprint("POST /next/", i)])
	}
}

// The server's host loses its power and is back at once. Its kernel then knows
// no connection, and says so to the first that asks, which is when it has been
// idle for as long as KeepAlive says.
func TestARebootIsNoticedByTheFirstConnectionForAll(t *testing.T) {
	t.Parallel()
	const n, younger, idle = 20, 600 * time.Millisecond, 2 * time.Second
	together(t, map[string]func(*testing.T){
		"nobody reads": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{})
			labEcho(t, o.Lab)
			conns := make([]net.Conn, n+1)
			for i := range conns {
				conns[i] = o.dial(t)
			}
			talk(t, conns[0])
			begin := time.Now()
			<-time.After(younger)
			for _, c := range conns[1:] {
				talk(t, c)
			}
			rebootBy(t, o, begin, idle)
			deaths := o.died(t, n+1, begin, idle+500*time.Millisecond)
			assert.Less(t, deaths[n].at.Sub(deaths[0].at), o.limit(deaths[0].at, younger/2), "nobody waits until its time has come")
		},
		// If a reader that waits is so fast to close the connection that the guard
		// never sees its end, each has to find out for itself.
		"HTTP/1.1": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{})
			o.serve(t, http1, o.Server.Listen(t, labPort), meeting(n))
			c, url := o.client(t, http1)
			c.Transport.(*http.Transport).MaxIdleConnsPerHost = n
			first, _ := o.client(t, http1)
			_, err := get(t, first, url)
			require.NoError(t, err)
			begin := time.Now()
			<-time.After(younger)
			meet(t, c, url, n)
			rebootBy(t, o, begin, idle)
			o.serve(t, http1, o.Server.Listen(t, labPort), meeting(n))
			poll(idle+younger+5*time.Second, func() bool { return len(o.Client.Conns()) <= n })
			one := time.Since(begin)
			poll(idle+younger, func() bool { return len(o.Client.Conns()) == 0 })
			all := time.Since(begin)
			t.Logf("the first ends %d ms after it was used, the others after %d ms", one.Milliseconds(), all.Milliseconds())
			assert.Less(t, one, o.limit(begin, idle+500*time.Millisecond))
			assert.Less(t, all, o.limit(begin, idle+younger+500*time.Millisecond))
			for range n {
				_, ms, err := reply(t.Context(), c, http.MethodPost, url, strings.NewReader("x"))
				require.NoError(t, err, "%d ms", ms)
			}
		},
	})
}

// rebootBy skips the test if the machine is too slow for it: the others must have
// been idle for a second when the first one asks, and the server must be back.
func rebootBy(t *testing.T, o *others, begin time.Time, idle time.Duration) {
	t.Helper()
	talked := time.Since(begin)
	o.Server.Reboot()
	if back := time.Since(begin); talked > idle-time.Second || back > idle-50*time.Millisecond {
		t.Skipf("this machine is too slow: all have talked after %v, and the server is back after %v", talked, back)
	}
}

// A body whose end is the end of the connection: what the guard does must not
// look like that.
func TestABodyThatIsCutIsNeverTakenForAWholeOne(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, upload := range []bool{false, true} {
		with := "alone"
		if upload {
			with = "beside an upload"
		}
		tests["a lost flow, "+with] = func(t *testing.T) {
			cutBody(t, upload, othersWithin+slack, func(o *others) { o.ForgetNAT() })
		}
		tests["a silent path, "+with] = func(t *testing.T) {
			cutBody(t, upload, othersWithin+slack, func(o *others) { o.Drop() })
		}
		tests["by hand, "+with] = func(t *testing.T) {
			cutBody(t, upload, slack, func(o *others) {
				o.mu.Lock()
				defer o.mu.Unlock()
				require.NoError(t, o.d.Guard().Sever(o.dialed[0], context.DeadlineExceeded))
			})
		}
	}
	together(t, tests)
}

func cutBody(t *testing.T, upload bool, within time.Duration, fault func(*others)) {
	const part = "this is not all"
	o := newOthers(t, netlab.Config{NAT: true}, Config{})
	done := make(chan struct{})
	defer close(done)
	o.serve(t, http1, o.Server.Listen(t, labPort), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + part)
		if rw.Flush() == nil {
			go func() { <-done; c.Close() }()
			_, _ = io.Copy(io.Discard, c)
		}
	}))
	c, url := o.client(t, http1)
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if upload {
		method, body = http.MethodPost, endlessly()
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.EqualValues(t, -1, res.ContentLength)
	r := bufio.NewReader(res.Body)
	_, err = r.Peek(len(part))
	require.NoError(t, err)
	var got []byte
	read := after(func() (err error) { got, err = io.ReadAll(r); return err })
	fault(o)
	begin := time.Now()
	o.endsWithin(t, read, begin, within)
	assert.Equal(t, part, string(got))
}
