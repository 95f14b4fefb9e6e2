package httpclient

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestAnOutageOf3SecondsFailsNoRequestAndEndsNoConnection(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind) {
		const n, outage, patience = 20, 3 * time.Second, 10 * time.Second
		let := make(chan struct{})
		h := http.NewServeMux()
		h.Handle("/", meeting(n, nil))
		entered := make(chan struct{}, n)
		h.HandleFunc("/later", func(w http.ResponseWriter, r *http.Request) {
			entered <- struct{}{}
			select {
			case <-let:
			case <-r.Context().Done():
			}
			_, _ = w.Write([]byte("ok"))
		})
		l := newLab(t, k, netlab.Config{}, h, Config{})
		l.fill(t, l.client, n)

		errs := make(chan error, 2*n)
		ask := func(path string) {
			go func() {
				_, err := getWithin(t.Context(), l.client, l.url+path, patience)
				errs <- err
			}()
		}
		for range n / 2 { // half of them wait for an answer that is lost
			ask("/later")
		}
		for range n / 2 {
			<-entered
		}
		l.Drop()
		began := time.Now()
		close(let)
		for i := range n / 2 { // and half begin meanwhile
			passes(began, time.Duration(i)*outage/n)
			ask("/")
		}
		passes(began, outage)
		l.Heal()
		healed := time.Now()
		for range n {
			require.NoError(t, <-errs)
		}
		t.Logf("all were answered %d ms after the heal", time.Since(healed).Milliseconds())
		l.keeps(t)
	})
}

// The handler takes longer than DetectWithin, and no byte moves. The server's
// kernel answers.
func TestASlowAnswerIsWaitedForWhileTheServersKernelLives(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind) {
		const takes = labWithin + 3*time.Second
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				select {
				case <-time.After(takes):
				case <-r.Context().Done():
				}
			}
			_, _ = w.Write([]byte("ok"))
		})
		l := newLab(t, k, netlab.Config{}, h, Config{})
		var wg sync.WaitGroup
		if k == http2 { // others give up meanwhile
			wg.Go(func() {
				for range 10 {
					_, err := getWithin(t.Context(), l.client, l.url+"/slow", 300*time.Millisecond)
					assert.ErrorIs(t, err, context.DeadlineExceeded)
				}
			})
		}
		_, err := getWithin(t.Context(), l.client, l.url+"/slow", 20*time.Second)
		wg.Wait()
		require.NoError(t, err)
		l.keeps(t)
		dialed, _ := l.count()
		assert.Equal(t, 1, dialed)
	})
}

// A router says that there is no way to the server, or the server's kernel that
// nobody listens, and both change.
func TestRequestsWaitForAHostThatIsGone(t *testing.T) {
	t.Parallel()
	type fault struct {
		gone, back func(t *testing.T, l *lab)
		errno      error
	}
	faults := map[string]fault{
		"unreachable": {
			func(_ *testing.T, l *lab) { l.Unreachable() },
			func(_ *testing.T, l *lab) { l.Heal(); l.Delay(2*time.Millisecond, 0) },
			syscall.EHOSTUNREACH,
		},
		"rebooted": {
			func(_ *testing.T, l *lab) { l.Server.Reboot() },
			func(t *testing.T, l *lab) {
				serveOn(t, l.k, l.Server.Listen(t, labPort), &http.Server{Handler: meeting(1, nil)})
			},
			syscall.ECONNREFUSED,
		},
	}
	tests := map[string]func(*testing.T){}
	for name, f := range faults {
		for _, k := range []kind{http1, http2} {
			for _, used := range []bool{false, true} {
				with := ", never seen before"
				if used {
					with = ", with idle connections"
				}
				tests[name+", "+string(k)+with] = func(t *testing.T) { waits(t, k, used, f.gone, f.back) }
			}
			tests[name+", "+string(k)+", FailFast"] = func(t *testing.T) { failsFast(t, k, f.gone, f.back, f.errno) }
		}
	}
	together(t, tests)
}

func waits(t *testing.T, k kind, used bool, gone, back func(*testing.T, *lab)) {
	const n, outage = 10, 1500 * time.Millisecond
	l := newLab(t, k, netlab.Config{}, meeting(n, nil), Config{})
	l.Delay(2*time.Millisecond, 0) // or the router's word comes while connect holds the socket
	if used {
		l.fill(t, l.client, n)
	}
	gone(t, l)
	began := time.Now()
	answered := after(func() *outcome { return l.atOnce(t, l.client, "/", n) })
	passes(began, outage)
	back(t, l)
	healed := time.Now()
	o := <-answered
	t.Logf("%v, %d ms after the heal", o, time.Since(healed).Milliseconds())
	assert.Empty(t, o.failed)
	assert.Equal(t, n, o.requests)
}

func failsFast(t *testing.T, k kind, gone, back func(*testing.T, *lab), errno error) {
	l := newLab(t, k, netlab.Config{}, meeting(1, nil), Config{FailFast: true})
	l.Delay(2*time.Millisecond, 0)
	gone(t, l)
	begun := time.Now()
	o := l.atOnce(t, l.client, "/", 10)
	t.Log(o)
	require.Len(t, o.failed, 10)
	for _, err := range o.failed {
		assert.ErrorIs(t, err, errno)
	}
	assert.LessOrEqual(t, o.slowest, l.limit(begun, time.Second))
	back(t, l)
	l.inTurn(t, l.client, "/", 1)
}
