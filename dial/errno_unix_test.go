//go:build unix

package dial

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
)

func TestARefusedConnectionKeepsItsErrnoAndGivesAdvice(t *testing.T) {
	addr := closedPort(t)
	_, err := newDialer(t, Config{}).DialContext(t.Context(), "tcp", addr)
	phase(t, err, PhaseConnect)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	assert.ErrorAs(t, err, &op)
	assert.ErrorContains(t, err, `dial: tcp "`+addr+`": connect: `)
	assert.ErrorContains(t, err, "nothing listens on that port")
	var ne net.Error
	require.True(t, errors.As(err, &ne))
	assert.False(t, ne.Timeout())
}

func TestAMissingUnixSocketIsSaidClearly(t *testing.T) {
	_, err := newDialer(t, Config{}).DialContext(t.Context(), "unix", filepath.Join(t.TempDir(), "none"))
	phase(t, err, PhaseConnect)
	assert.ErrorIs(t, err, syscall.ENOENT)
	assert.ErrorContains(t, err, "is the server running?")
}

func TestAdviceFitsTheNetwork(t *testing.T) {
	for _, tt := range []struct {
		network string
		errno   syscall.Errno
		want    string
	}{
		{"tcp", syscall.EACCES, "router or firewall on the way"},
		{"tcp", syscall.EACCES, "policy of this machine"},
		{"tcp", syscall.ECONNREFUSED, "nothing listens on that port"},
		{"unix", syscall.EACCES, "permissions of the socket's file"},
		{"unix", syscall.ECONNREFUSED, "did the server die?"},
		{"unixpacket", syscall.EAGAIN, "queue"},
		{"unix", syscall.EMFILE, "ulimit"},
	} {
		assert.Contains(t, errnoAdvice(tt.network, &net.OpError{Err: tt.errno}), tt.want, "%s %v", tt.network, tt.errno)
	}
}

func TestAUnixSocketWhoseServerDiedIsSaidClearly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln := listen(t, "unix", path)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	_, err := newDialer(t, Config{}).DialContext(t.Context(), "unix", path)
	phase(t, err, PhaseConnect)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.ErrorContains(t, err, "did the server die?")
	assert.NotContains(t, err.Error(), "port")
}

func TestAHandshakeThatTheGuardEndedIsSaidToBeOfThePath(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	pools := newGuard(t)
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	silence := &health.SilenceError{Silent: 3 * time.Second, Unanswered: 5, Fresh: true}
	for _, ctx := range []context.Context{t.Context(), health.ContextWithGuard(t.Context(), pools)} {
		d := newDialer(t, Config{})
		c, err := d.DialContext(ctx, "tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		assert.Equal(t, health.Conn, health.Classify(d.failed(ctx, PhaseHandshake, "tcp", addr, d.explain(ctx, c, reset))))
		require.NoError(t, d.guardFor(ctx).Sever(c, silence))
		err = d.failed(ctx, PhaseHandshake, "tcp", addr, d.explain(ctx, c, reset))
		assert.Equal(t, health.Path, health.Classify(err), "%v", err)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		assert.ErrorAs(t, err, new(*health.SilenceError))
	}
	d := newDialer(t, Config{Unguarded: true})
	assert.Equal(t, error(reset), d.explain(health.ContextWithGuard(t.Context(), pools), nil, reset))
}
