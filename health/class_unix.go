//go:build unix || js || wasip1

package health

import (
	"runtime"
	"syscall"
)

// linuxENONET is what an ICMP "host isolated" becomes. Few other systems know
// it, and package syscall on none of them.
const linuxENONET syscall.Errno = 64

// judgeSystem knows the errnos of this system. It reports true for every errno,
// also one that says nothing.
func judgeSystem(err error, dialing bool) (verdict, bool) {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return saysNothing, false
	}
	switch errno {
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ENOTCONN, errShutdown:
		return saysConn, true
	case syscall.ECONNREFUSED:
		if dialing {
			return saysConn, true
		}
		return saysPath, true
	case syscall.EACCES:
		if dialing {
			return saysLocal, true
		}
		return saysPath, true // a router's prohibition
	case syscall.EPROTO, syscall.ENOPROTOOPT:
		if !dialing { // or the errno may be of any system call that makes a socket
			return saysPath, true
		}
	case syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.ENETRESET,
		errHostDown:
		return saysPath, true
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL,
		syscall.EADDRINUSE, syscall.EPERM, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT:
		return saysLocal, true
	case syscall.EBADF:
		return saysClosed, true
	case syscall.ENOENT, syscall.EAGAIN:
		// A Unix socket that nobody has made, or whose queue is full.
		if dialing {
			return saysConn, true
		}
	}
	if runtime.GOOS == "linux" && errno == linuxENONET {
		return saysPath, true
	}
	return saysNothing, true
}
