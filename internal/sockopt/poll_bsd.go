//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package sockopt

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// IsTCP reports whether fd is a TCP socket.
func IsTCP(fd uintptr) bool {
	t, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || t != unix.SOCK_STREAM {
		return false
	}
	sa, err := unix.Getsockname(int(fd))
	if err != nil {
		return false
	}
	switch sa.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return true
	}
	return false
}

// Peek looks for what is waiting to be read, without reading it or waiting. It
// returns
//
//	1, nil             bytes are waiting
//	0, nil             a FIN was received
//	0, syscall.EAGAIN  nothing is there
//	0, another errno   the connection is dead, or the call is forbidden
//	                   (ENOSYS, EPERM)
//
// A pending error is consumed by being returned, as by any read.
func Peek(fd uintptr) (n int, err error) {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, syscall.EAGAIN
		default:
			return 0, err
		}
	}
}

// Poll returns the events that are pending now. It waits for nothing and
// consumes nothing. It can't tell a FIN behind unread bytes from the bytes.
func Poll(fd uintptr) (Events, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, 0)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return 0, wrap("poll", "poll", err, err == unix.ENOSYS)
		}
	}
	if p[0].Revents&unix.POLLNVAL != 0 {
		return 0, wrap("poll", "poll", unix.EBADF, false)
	}
	var e Events
	if p[0].Revents&unix.POLLIN != 0 {
		e |= Readable
	}
	if p[0].Revents&unix.POLLHUP != 0 {
		e |= HangUp
	}
	if p[0].Revents&unix.POLLERR != 0 {
		e |= Failed
	}
	return e, nil
}
