package pool_test

import (
	"context"
	"net"
	"testing"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

// A reply that Do's function read in part, on a new connection, is no failed
// open.
func TestAReplyThatTheUserReadInPartIsNoFailedOpen(t *testing.T) {
	s := newServer(t, talker)
	p := newNetPool(t, pool.Config[net.Conn]{Open: s.open, MaxConns: 1})
	for range 3 {
		require.NoError(t, p.Do(t.Context(), func(_ context.Context, c net.Conn) error { ask(t, c); return nil }))
	}
	require.Zero(t, p.Stat().OpenFailed)
}
