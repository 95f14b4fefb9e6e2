//go:build !plan9

package health

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSniffSeesWhatTheGuardHasNotYetSeen(t *testing.T) {
	g := newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true})
	for name, test := range map[string]struct {
		kill  func(peer *net.TCPConn)
		cause error
	}{
		"FIN": {func(peer *net.TCPConn) { peer.Close() }, io.EOF},
		"RST": {func(peer *net.TCPConn) { reset(t, peer) }, syscall.ECONNRESET},
	} {
		for _, layered := range []bool{false, true} {
			c, peer := pair(t)
			var outer net.Conn = c
			if layered {
				outer = tls.Client(c, &tls.Config{})
			}
			w, died := watch(t, g, outer)
			require.NoError(t, w.Sniff())
			require.False(t, w.Dead())
			test.kill(peer)
			eventually(t, name, func() bool { return w.Sniff() != nil })
			isCause(t, test.cause, w.Sniff())
			assert.True(t, w.Dead())
			isCause(t, test.cause, w.Cause())
			assert.Empty(t, died)
			assert.True(t, w.Stop())
		}
	}
}

func TestSniffIgnoresDeadlinesAndConsumesNothing(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	c, peer := pair(t)
	w, _ := watch(t, g, c)
	require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
	for range 10 {
		require.NoError(t, w.Sniff())
	}
	_, err := peer.Write([]byte("late reply"))
	require.NoError(t, err)
	eventually(t, "ErrUnread", func() bool { return errors.Is(w.Sniff(), ErrUnread) })
	require.ErrorIs(t, w.Sniff(), ErrUnread)
	assert.False(t, w.Dead(), "it lives, it is only out of step")
	assert.NoError(t, w.Cause())
	require.NoError(t, c.SetDeadline(time.Time{}))
	reply := make([]byte, 10)
	_, err = io.ReadFull(c, reply)
	require.NoError(t, err)
	assert.Equal(t, "late reply", string(reply))
	assert.NoError(t, w.Sniff())
}

func TestDeathBySniffIsStillCalledBack(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		for range 50 {
			c, peer := pair(t)
			w, died := watch(t, g, c)
			reset(t, peer)
			for w.Sniff() == nil {
			}
			receive(t, died, "the callback")
			w.Stop()
		}
	})
}
