package httpclient

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refusing is an address where nobody listens, before the test ends.
func refusing(t testing.TB) string {
	addr, _ := refusingUntil(t)
	return addr
}

// refusingUntil is refusing, until the test asks for a listener there. The port is
// a connection's meanwhile, or somebody else might be given it.
func refusingUntil(t testing.TB) (addr string, listen func() net.Listener) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	release := func() {
		_ = c.(*net.TCPConn).SetLinger(0) // or the port is taken for a minute
		c.Close()
	}
	t.Cleanup(release)
	addr = c.LocalAddr().String()
	return addr, func() net.Listener {
		release()
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skip("the port was taken:", err)
		}
		return l
	}
}

// ending is a context whose deadline comes when over is closed.
type ending struct {
	context.Context
	over chan struct{}
}

func (e ending) Deadline() (time.Time, bool) { return time.Now().Add(patience), true }
func (e ending) Done() <-chan struct{}       { return e.over }

func (e ending) Err() error {
	select {
	case <-e.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// untilOpeningFails returns a context for a request whose deadline comes when
// opening a connection has failed so often, however long that takes here.
func untilOpeningFails(t testing.TB, c *Client, times int) context.Context {
	e := ending{context.Background(), make(chan struct{})}
	failed := func(h HostStat) bool { return h.Conns.OpenFailures >= times }
	ended := after(func() bool {
		defer close(e.over)
		return eventually(patience, func() bool { return slices.ContainsFunc(c.Stat().Hosts, failed) })
	})
	t.Cleanup(func() { assert.True(t, <-ended, "opening didn't fail") })
	return e
}
