//go:build unix

package dial

import (
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
