//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package sockopt

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	ipprotoTCP = unix.IPPROTO_TCP
	tcpNoDelay = unix.TCP_NODELAY
	solSocket  = unix.SOL_SOCKET
	soRcvBuf   = unix.SO_RCVBUF
	soSndBuf   = unix.SO_SNDBUF
)

func set(fd uintptr, option string, level, opt, value int) error {
	return check(fd, "setsockopt", option, unix.SetsockoptInt(int(fd), level, opt, value))
}

func get(fd uintptr, option string, level, opt int) (int, error) {
	n, err := unix.GetsockoptInt(int(fd), level, opt)
	return n, check(fd, "getsockopt", option, err)
}

// check sorts errnos into "this kernel or socket does not know the option" and
// real errors.
func check(fd uintptr, call, option string, err error) error {
	if err == nil {
		return nil
	}
	unsupported := err == unix.ENOPROTOOPT || errors.Is(err, errors.ErrUnsupported)
	if unsupported && !IsTCP(fd) {
		option += " (not a TCP socket)"
	}
	return wrap(call, option, err, unsupported)
}
