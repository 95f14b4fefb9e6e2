package pool_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestARetiredConnectionServesNobodyElse(t *testing.T) {
	for _, tt := range []struct{ given, counted pool.Reason }{
		{pool.ReasonIdle, pool.ReasonIdle},
		{pool.ReasonLifetime, pool.ReasonLifetime},
		{99, pool.ReasonLifetime},
	} {
		p := newPool(t, &factory{}, nil)
		a := acquire(t, p)
		first := a.Value()
		a.Retire(tt.given)
		b := acquire(t, p)
		require.NotSame(t, first, b.Value())
		require.Equal(t, int64(1), p.Stat().Closed(tt.counted))
		a.Retire(tt.given) // long over: changes nothing
		require.NoError(t, b.Err())
		b.Release()
		require.Equal(t, 1, p.Stat().Idle)
		require.Equal(t, int64(1), p.Stat().ClosedAll())
	}
}

func TestRetiringTheLastOneServesTheNextInTheQueueWithANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MaxConns = 1 })
		a := acquire(t, p)
		got := make(chan pool.Conn[*conn])
		go func() { got <- acquire(t, p) }()
		synctest.Wait()
		a.Retire(pool.ReasonLifetime)
		b := <-got
		require.Equal(t, 2, b.Value().id)
		b.Release()
	})
}

func TestRetireIfReplacesWhatItIsToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, &factory{}, func(c *pool.Config[*conn]) { c.MinIdleConns = 1 })
		held := []pool.Conn[*conn]{acquire(t, p), acquire(t, p), acquire(t, p), acquire(t, p)}
		// Those that are opened side by side arrive in any order.
		slices.SortFunc(held, func(a, b pool.Conn[*conn]) int { return a.Value().id - b.Value().id })
		odd := func(c *conn) bool { return c.id%2 == 1 }
		outdated, current := held[0], held[1]
		for _, c := range held[2:] {
			c.Release()
		}
		require.Equal(t, 2, p.RetireIf(pool.ReasonReset, odd))
		synctest.Wait()
		require.Equal(t, int64(1), p.Stat().Closed(pool.ReasonReset), "the idle one at once")
		require.ErrorIs(t, outdated.Err(), pool.ErrOutdated)
		require.NoError(t, current.Err())
		require.Zero(t, p.RetireIf(pool.ReasonReset, odd), "they are known")
		outdated.Release()
		current.Release()
		synctest.Wait()
		require.Equal(t, int64(2), p.Stat().Closed(pool.ReasonReset))
		require.Equal(t, 2, p.Stat().Idle)
		require.Zero(t, p.Stat().Resets)
	})
}

func TestFailFastTellsWaitersOfTheFirstFailure(t *testing.T) {
	for _, fast := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, &factory{fail: errRefused}, func(c *pool.Config[*conn]) { c.FailFast = fast })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			began := time.Now()
			_, err := p.Acquire(ctx)
			require.ErrorIs(t, err, errRefused)
			require.True(t, health.SafeToRetry(err))
			require.Equal(t, fast, time.Since(began) < time.Second)
			require.Equal(t, !fast, context.Cause(ctx) != nil)
		})
	}
}
