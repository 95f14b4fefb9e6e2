package httpclient

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The router forgets the flows, and new ones work. By default, HTTP/1.1 fails 18
// requests in a row then, for 92 s, and HTTP/2 187 for a quarter of an hour.
func TestAFlowThatWasLostFreshForAgoFailsNoRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		for _, rest := range []time.Duration{labFresh, labFresh + time.Second} {
			tests[fmt.Sprintf("%v, one after another, %v after the loss", k, rest)] = func(t *testing.T) {
				l := lostFlows(t, k, rest)
				l.unharmed(t, l.inTurn(t, l.client, "/", 40))
			}
			tests[fmt.Sprintf("%v, 20 at once, %v after the loss", k, rest)] = func(t *testing.T) {
				l := lostFlows(t, k, rest)
				l.unharmed(t, l.atOnce(t, l.client, "/", 20))
			}
		}
	}
	together(t, tests)
}

// lostFlows returns a lab with 20 connections, or an HTTP/2 one, which the router
// has forgotten for that long.
func lostFlows(t *testing.T, k kind, rest time.Duration) *lab {
	t.Helper()
	l := newLab(t, k, netlab.Config{NAT: true}, meeting(20, nil), Config{})
	l.fill(t, l.client, 20)
	lost := time.Now()
	l.ForgetNAT()
	passes(lost, rest)
	return l
}

func (l *lab) unharmed(t *testing.T, o *outcome) {
	t.Helper()
	t.Log(o)
	assert.Empty(t, o.failed)
	assert.LessOrEqual(t, o.first, l.limit(o.begun, 500*time.Millisecond))
}

// What begins earlier is sent before anybody could know.
func TestAFlowThatWasLostJustNowFailsAtMostOneRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		for _, rest := range []time.Duration{0, labFresh / 2, labFresh * 9 / 10} {
			tests[fmt.Sprintf("%v, %v after the loss", k, rest)] = func(t *testing.T) {
				l := lostFlows(t, k, rest)
				begun := time.Now()
				o := l.inTurn(t, l.client, "/", 40)
				t.Log(o, fmt.Sprintf("; repeated: %d", l.client.Stat().Retries))
				assert.LessOrEqual(t, len(o.failed), 1)
				assert.LessOrEqual(t, o.first, l.limit(begun, labWithin+time.Second))
			}
		}
	}
	together(t, tests)
}

func TestARequestThatIsInFlightWhenItsFlowIsLostIsTheOnlyOneToFail(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			tests[fmt.Sprintf("%v, %v", k, method)] = func(t *testing.T) { lostInFlight(t, k, method) }
		}
	}
	together(t, tests)
}

func lostInFlight(t *testing.T, k kind, method string) {
	arrived := make(chan string, 1)
	l := newLab(t, k, netlab.Config{NAT: true}, meeting(1, arrived), Config{})
	l.fill(t, l.client, 1)
	asked := after(func() error {
		if method == http.MethodPost {
			return l.post(t.Context(), l.client, "/first")
		}
		_, err := get(t.Context(), l.client, l.url+"/first")
		return err
	})
	<-arrived
	lost := time.Now()
	l.ForgetNAT()
	err := <-asked
	took := time.Since(lost)
	o := l.inTurn(t, l.client, "/", 10)
	success := took
	if err != nil {
		success += o.first
	}
	t.Logf("in flight, after %d ms: %v; success %d ms after the loss; then %v", took.Milliseconds(), err, success.Milliseconds(), o)
	if method == http.MethodPost {
		assert.Error(t, err, "nobody knows whether it was executed")
	}
	assert.Empty(t, o.failed, "at most the one that was in flight fails")
	assert.LessOrEqual(t, success, l.limit(lost, labWithin+time.Second))
}

// Requests that are given up leave their streams behind, and the connection looks
// as if it worked.
func TestRequestsThatAreGivenUpDoNotKeepADeadConnectionInPlace(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"HTTP/1.1":                          func(t *testing.T) { givenUp(t, http1, false) },
		"HTTP/2":                            func(t *testing.T) { givenUp(t, http2, false) },
		"HTTP/2, beside one who is patient": func(t *testing.T) { givenUp(t, http2, true) },
	})
}

func givenUp(t *testing.T, k kind, patient bool) {
	const patience = 300 * time.Millisecond
	arrived := make(chan string, 1)
	l := newLab(t, k, netlab.Config{NAT: true}, meeting(1, arrived), Config{})
	l.fill(t, l.client, 1)
	var asked <-chan error
	if patient {
		asked = after(func() error {
			_, err := getWithin(t.Context(), l.client, l.url+"/first", time.Minute)
			return err
		})
		<-arrived
	}
	lost := time.Now()
	l.ForgetNAT()
	o, last := &outcome{begun: lost}, time.Duration(0)
	for o.requests-len(o.failed) < 20 && time.Since(lost) < 30*time.Second {
		took, err := getWithin(t.Context(), l.client, l.url, patience)
		o.add(took, err)
		if err != nil {
			last = time.Since(lost)
		}
	}
	t.Logf("%d requests, %d failed, the last one %d ms after the loss, first success after %d ms",
		o.requests, len(o.failed), last.Milliseconds(), o.first.Milliseconds())
	assert.Equal(t, 20, o.requests-len(o.failed))
	assert.LessOrEqual(t, o.first, l.limit(lost, labWithin+time.Second))
	assert.LessOrEqual(t, last, l.limit(lost, labWithin+time.Second), "nothing fails on a fresh one")
	if patient {
		assert.NoError(t, <-asked, "the first answer was lost, and the second came")
	}
}

// All requests are executed, and all replies lost.
func TestOfRequestsWhoseRepliesAreLostNoPOSTIsExecutedTwice(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind) {
		const n = 5 // of each
		let := make(chan struct{})
		ex := newExecutor(func(id string, nth int, r *http.Request) {
			if nth == 1 {
				select {
				case <-let:
				case <-r.Context().Done():
				}
			}
		})
		l := newLab(t, k, netlab.Config{NAT: true}, ex, Config{})
		posts := make(chan error, 2*n)
		keyed := make(chan error, n)
		for i := range n {
			go func() { posts <- ex.post(t.Context(), l.client, l.url, fmt.Sprint("again", i), withGetBody) }()
			go func() { posts <- ex.post(t.Context(), l.client, l.url, fmt.Sprint("once", i), withoutGetBody) }()
			go func() { keyed <- ex.post(t.Context(), l.client, l.url, fmt.Sprint("key", i), withKey) }()
		}
		require.True(t, eventually(patience, func() bool { return ex.executed() == 3*n }))
		lost := time.Now()
		l.ForgetNAT()
		close(let)
		for range n {
			assert.NoError(t, <-keyed)
		}
		for range 2 * n {
			assert.Error(t, <-posts)
		}
		assert.LessOrEqual(t, time.Since(lost), l.limit(lost, labWithin+time.Second))
		for id, times := range ex.all() {
			want := 1
			if id[:3] == "key" {
				want = 2
			}
			assert.Equal(t, want, times, id)
		}
		assert.Len(t, ex.all(), 3*n)
	})
}
