package httpclient

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The server's process ends, with requests in flight, and 200 ms later another
// one listens on the same port.
func TestARestartFailsNoneOf20ConcurrentGETs(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, k := range []kind{http1, http2} {
		for _, reset := range []bool{false, true} {
			how := "closed"
			if reset {
				how = "reset"
			}
			tests[fmt.Sprintf("%v, %v", k, how)] = func(t *testing.T) { restart(t, k, reset) }
			tests[fmt.Sprintf("%v, %v, the first requests ever", k, how)] = func(t *testing.T) { restartAtFirst(t, k, reset) }
		}
	}
	together(t, tests)
}

const (
	restartWorkers = 20
	restartTakes   = 200 * time.Millisecond
)

// restartable is a server that can be restarted.
type restartable struct {
	*lab
	h   http.Handler
	srv *http.Server
}

func newRestartable(t *testing.T, k kind, h http.Handler) *restartable {
	t.Helper()
	r := &restartable{lab: newLab(t, k, netlab.Config{}, nil, Config{}), h: h}
	r.start(t)
	return r
}

func (r *restartable) start(t *testing.T) {
	t.Helper()
	r.srv = &http.Server{Handler: r.h}
	serveOn(t, r.k, r.Server.Listen(t, labPort), r.srv)
}

func (r *restartable) restart(t *testing.T, reset bool) {
	t.Helper()
	down := time.Now()
	if reset {
		// The listener first, or the next connections would be reset, too.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = r.srv.Shutdown(ctx)
		r.Server.ResetConns()
	}
	_ = r.srv.Close()
	passes(down, restartTakes)
	r.start(t)
}

// restart is under load.
func restart(t *testing.T, k kind, reset bool) {
	pause := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
		_, _ = w.Write([]byte("ok"))
	})
	r := newRestartable(t, k, pause)
	var mu sync.Mutex
	var wg sync.WaitGroup
	o := &outcome{begun: time.Now()}
	stop := make(chan struct{})
	for range restartWorkers {
		wg.Go(func() {
			for {
				took, err := get(t.Context(), r.client, r.url)
				mu.Lock()
				o.add(took, err)
				mu.Unlock()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	served := func() int64 { return r.client.Stat().Hosts[0].Requests }
	require.True(t, eventually(20*time.Second, func() bool { return len(r.client.Stat().Hosts) > 0 && served() > 10*restartWorkers }))
	r.restart(t, reset)
	again := served()
	eventually(20*time.Second, func() bool { return served() > again+10*restartWorkers })
	close(stop)
	wg.Wait()
	t.Logf("%v; repeated: %d", o, r.client.Stat().Retries)
	assert.Empty(t, slices.DeleteFunc(o.failed, isCutShort))
	assert.NotZero(t, r.client.Stat().Retries, "some were in flight")
}

// restartAtFirst has all of the first requests in flight.
func restartAtFirst(t *testing.T, k kind, reset bool) {
	let := make(chan struct{})
	ex := newExecutor(func(_ string, nth int, r *http.Request) {
		if nth <= restartWorkers {
			select {
			case <-let:
			case <-r.Context().Done():
			}
		}
	})
	r := newRestartable(t, k, ex)
	answered := after(func() *outcome { return r.atOnce(t, r.client, "/", restartWorkers) })
	require.True(t, eventually(4*time.Second, func() bool { return ex.executed() == restartWorkers }))
	r.restart(t, reset)
	o := <-answered
	t.Logf("%v; repeated: %d", o, r.client.Stat().Retries)
	assert.Empty(t, slices.DeleteFunc(o.failed, isCutShort))
	close(let)
}
