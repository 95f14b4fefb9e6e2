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
