package sockopt

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peek looks for what is waiting to be read, without reading it or waiting. It
// returns
//
//	1, nil             bytes are waiting
//	0, nil             a FIN was received
//	0, syscall.EAGAIN  nothing is there
//	0, another errno   the connection is dead, or the call is forbidden
//	                   (ENOSYS, EPERM)
//
// A pending error is consumed by being returned, as by any read. Peek allocates
// nothing and does not involve Go's scheduler.
func Peek(fd uintptr) (n int, err error) {
	var b [1]byte
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1,
			unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, syscall.EAGAIN // does not allocate, unlike the conversion of errno
		default:
			return 0, errno
		}
	}
}

// Poll returns the events that are pending now. It waits for nothing, consumes
// nothing, allocates nothing and does not involve Go's scheduler.
func Poll(fd uintptr) (Events, error) {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	var zero unix.Timespec
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1,
			uintptr(unsafe.Pointer(&zero)), 0, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return 0, wrap("ppoll", "poll", errno, errno == unix.ENOSYS)
		}
	}
	if p.Revents&unix.POLLNVAL != 0 {
		return 0, wrap("ppoll", "poll", unix.EBADF, false)
	}
	var e Events
	if p.Revents&unix.POLLIN != 0 {
		e |= Readable
	}
	if p.Revents&unix.POLLRDHUP != 0 {
		e |= ReadClosed
	}
	if p.Revents&unix.POLLHUP != 0 {
		e |= HangUp
	}
	if p.Revents&unix.POLLERR != 0 {
		e |= Failed
	}
	return e, nil
}
