package httpclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
)

// late is a context whose deadline passes before it ends, as on a busy machine.
type late struct {
	context.Context
	at time.Time
}

func (l late) Deadline() (time.Time, bool) { return l.at, true }

// waitsWithDeadline has a request wait for a connection with a deadline that is not
// over before it does so.
func waitsWithDeadline(t *testing.T, c *Client, url string, isLate bool) (deadline time.Time, one <-chan error) {
	for within := 300 * time.Millisecond; within < 2*patience; within *= 2 {
		deadline = time.Now().Add(within)
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		if isLate {
			ctx = late{ctx, deadline}
		} else {
			var stop context.CancelFunc
			ctx, stop = context.WithDeadline(ctx, deadline)
			t.Cleanup(stop)
		}
		one = after(func() error { return try(ctx, c, url) })
		if eventually(within/2, func() bool { return onlyHost(t, c).Waiting == 1 }) {
			return deadline, one
		}
		cancel()
		<-one
	}
	require.FailNow(t, "it doesn't wait")
	return deadline, one
}

func TestTheDeadlineOfOneRequestFailsNoOther(t *testing.T) {
	for _, isLate := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/2 %t, its timer is late %t", h2, isLate), func(t *testing.T) {
				t.Parallel()
				held := newHolding(t)
				s := serverOf(t, h2, held.ServeHTTP)
				c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost, cfg.MaxConnRequests = 1, 1 })
				hold(t, c, s.URL, 1)
				deadline, one := waitsWithDeadline(t, c, s.URL, isLate)
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() { assert.Equal(t, "ok", fetch(t, c, s.URL)) })
				}
				if isLate {
					assert.True(t, eventually(patience, func() bool { return time.Since(deadline) > 100*time.Millisecond }))
				} else {
					assert.ErrorIs(t, <-one, context.DeadlineExceeded)
				}
				tenWait := func() bool { return onlyHost(t, c).Waiting >= 10 || held.others.Load() > 0 }
				assert.True(t, eventually(patience, tenWait))
				assert.True(t, stays(50*time.Millisecond, tenWait))
				held.release()
				wg.Wait()
				if isLate {
					<-one // which may have failed or not
				}
			})
		}
	}
}

// whoWaits has one request without a deadline and one with a later one wait for a
// host where nobody listens, in either order.
func whoWaits(t *testing.T, k kind, patientFirst bool) {
	t.Parallel()
	const within = 2 * time.Second
	addr, listen := refusingUntil(t)
	url := urlOf(k, addr)
	clock := netlab.NewClock(t)
	c := newClient(t, k, Config{DetectWithin: within})
	var took, limit time.Duration
	var hasty, patient <-chan error
	without := func() {
		hasty = after(func() error {
			begun := time.Now()
			defer func() { took, limit = time.Since(begun), within+allowed(within/2)+clock.Lost(begun) }()
			return try(context.WithoutCancel(t.Context()), c, url)
		})
	}
	with := func() {
		patient = after(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			return try(ctx, c, url)
		})
	}
	first, second := without, with
	if patientFirst {
		first, second = with, without
	}
	first()
	waitFor(t, c, 1)
	second()
	waitFor(t, c, 2)

	err := <-hasty
	assert.ErrorIs(t, err, pool.ErrOpenFails)
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	assert.True(t, health.SafeToRetry(err))
	assert.GreaterOrEqual(t, took, within)
	assert.Less(t, took, limit)
	select {
	case err := <-patient:
		assert.Fail(t, "the other one didn't wait", "%v", err)
	default:
	}
	serveOn(t, k, listen(), &http.Server{Handler: newHolding(t)})
	assert.NoError(t, <-patient)
}

func TestWithoutADeadlineARequestWaitsForDetectWithinAndFailsAlone(t *testing.T) {
	for _, k := range []kind{http1, http2} {
		t.Run(string(k)+", it came first", func(t *testing.T) { whoWaits(t, k, false) })
		t.Run(string(k)+", it came second", func(t *testing.T) { whoWaits(t, k, true) })
	}
}

func TestAfterCloseAllErrorsAreErrClosedWithTheirHost(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		held := newHolding(t)
		s := unstarted(h2, held.ServeHTTP)
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
		start(t, s, h2)
		c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost = 1 })
		hold(t, c, s.URL, 1)
		waiting := after(func() error { return try(t.Context(), c, s.URL) })
		waitFor(t, c, 1)
		closed := after(func() error { return c.Close(t.Context()) })
		for _, err := range []error{<-waiting, try(t.Context(), c, s.URL), try(t.Context(), c, "http://name.test")} {
			assert.ErrorIs(t, err, ErrClosed)
			e, ok := errors.AsType[*Error](err)
			if assert.True(t, ok, "%T", err) {
				assert.NotEmpty(t, e.Host.Addr)
				assert.True(t, health.SafeToRetry(err))
			}
		}
		held.release()
		assert.NoError(t, <-closed)
	})
}

func TestAnImpatientSecondCloseEndsTheFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, newHolding(t).ServeHTTP)
		c := clientOf(t, s)
		hold(t, c, s.URL, 1)
		first := after(func() error { return c.Close(t.Context()) })
		assert.True(t, eventually(patience, func() bool { return errors.Is(try(t.Context(), c, s.URL), ErrClosed) }))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		assert.ErrorContains(t, c.Close(ctx), "1 in use", "it says what it has cut off")
		select {
		case <-first:
		case <-time.After(patience):
			require.Fail(t, "the first Close goes on waiting")
		}
		assert.NoError(t, c.Close(t.Context()), "nothing is left")
	})
}

func TestTheQueueIsBoundedAndOneTooManyFailsAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		held := newHolding(t)
		s := unstarted(h2, held.ServeHTTP)
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
		start(t, s, h2)
		c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost, cfg.MaxWaitersPerHost = 1, 5 })
		hold(t, c, s.URL, 1)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { assert.Equal(t, "ok", fetch(t, c, s.URL)) })
		}
		waitFor(t, c, 5)
		for range 3 {
			err := failing(t, c, newReq(t, "POST", s.URL, nil))
			assert.True(t, errors.Is(err, ErrTooManyWaiters) || errors.Is(err, pool.ErrTooManyWaiters), "%v", err)
			assert.True(t, health.SafeToRetry(err))
		}
		assert.Equal(t, 5, onlyHost(t, c).Waiting)
		held.release()
		wg.Wait()
		assert.EqualValues(t, 5, held.others.Load())
	})
}
