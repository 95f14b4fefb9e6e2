//go:build unix

package health

import (
	"os"
	"runtime"
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
		syscall.EACCES:        Path,
		syscall.EPROTO:        Path,
		syscall.ENOPROTOOPT:   Path,
		syscall.EAGAIN:        Unknown,
		syscall.ENOENT:        Unknown,
		syscall.EINTR:         Unknown,
	} {
		err := opError("read", errno)
		assert.Equal(t, class, Classify(err), "%v", err)
		assert.Equal(t, class, Classify(errno), "as Watch.Cause returns it: %v", err)
		assert.False(t, SafeToRetry(err), "%v", err)
		assert.True(t, SafeToRetry(opError("dial", errno)), "%v", err)
	}
}

func TestErrnosOfADialAreClassified(t *testing.T) {
	for errno, class := range map[syscall.Errno]Class{
		syscall.ECONNREFUSED: Conn,
		syscall.ENOENT:       Conn,
		syscall.EAGAIN:       Conn,
		syscall.EACCES:       Local,
		syscall.EPROTO:       Unknown,
		syscall.ENOPROTOOPT:  Unknown,
		syscall.EHOSTUNREACH: Path,
	} {
		assert.Equal(t, class, Classify(opError("dial", errno)), "%v", errno)
	}
	if runtime.GOOS == "linux" {
		assert.Equal(t, Path, Classify(opError("dial", linuxENONET)))
		assert.Equal(t, Path, Classify(opError("read", linuxENONET)))
	}
}

func TestKernelTimeoutIsNotADeadline(t *testing.T) {
	err := opError("read", syscall.ETIMEDOUT)
	require.True(t, os.IsTimeout(err), "the trap")
	assert.Equal(t, Path, Classify(err))
}
