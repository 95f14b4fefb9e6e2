package pool_test

import (
	"context"
	"testing"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func TestOpenFindsThePoolsGuardInItsContext(t *testing.T) {
	given, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	defer given.Close()
	for name, guard := range map[string]*health.Guard{"given": given, "its own": nil} {
		t.Run(name, func(t *testing.T) {
			found := make(chan *health.Guard, 1)
			f := &factory{}
			p := newPool(t, f, func(c *pool.Config[*conn]) {
				c.Guard = guard
				c.Open = func(ctx context.Context) (*conn, error) {
					found <- health.GuardFromContext(ctx)
					return f.open(ctx)
				}
			})
			acquire(t, p).Release()
			g := <-found
			require.NotNil(t, g)
			require.Equal(t, guard != nil, g == given)
		})
	}
}
