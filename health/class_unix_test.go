//go:build unix

package health

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestErrnosAreClassified(t *testing.T) {
	for errno, class := range map[syscall.Errno]Class{
		syscall.ECONNRESET:    Conn,
		syscall.EPIPE:         Conn,
		syscall.ECONNABORTED:  Conn,
		syscall.ENOTCONN:      Conn,
		syscall.EBADF:         Conn,
		syscall.ECONNREFUSED:  Path,
		syscall.ETIMEDOUT:     Path,
		syscall.EHOSTUNREACH:  Path,
		syscall.ENETUNREACH:   Path,
		syscall.ENETDOWN:      Path,
		syscall.ENETRESET:     Path,
		syscall.EMFILE:        Local,
		syscall.ENFILE:        Local,
		syscall.ENOBUFS:       Local,
		syscall.ENOMEM:        Local,
		syscall.EADDRNOTAVAIL: Local,
		syscall.EADDRINUSE:    Local,
		syscall.EPERM:         Local,
		syscall.EACCES:        Local,
		syscall.EAGAIN:        Unknown,
		syscall.ENOENT:        Unknown,
		syscall.EINTR:         Unknown,
	} {
		err := opError("read", errno)
		assert.Equal(t, class, Classify(err), "%v", err)
		assert.False(t, SafeToRetry(err), "%v", err)
		assert.True(t, SafeToRetry(opError("dial", errno)), "%v", err)
	}
}

func TestKernelTimeoutIsNotADeadline(t *testing.T) {
	err := opError("read", syscall.ETIMEDOUT)
	require.True(t, os.IsTimeout(err), "the trap")
	assert.Equal(t, Path, Classify(err))
}
