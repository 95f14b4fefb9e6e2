package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// Acquire must not return a connection that an
// impatient Close has already closed while it was being pinged: the ping's
// context is cancelled asynchronously.
func TestAcquireReturnsNoConnectionThatCloseHasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var p *pool.Pool[*conn]
		p = newPool(t, &factory{}, func(c *pool.Config[*conn]) {
			c.Ping = func(context.Context, *conn) error { p.Close(ended); return nil }
		})
		fill(t, p, 1)
		time.Sleep(31 * time.Second)
		_, err := p.Acquire(t.Context())
		require.ErrorIs(t, err, pool.ErrClosed)
	})
}
