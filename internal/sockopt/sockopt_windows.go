package sockopt

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	ipprotoTCP   = windows.IPPROTO_TCP
	tcpNoDelay   = windows.TCP_NODELAY
	tcpKeepIdle  = windows.TCP_KEEPIDLE
	tcpKeepIntvl = windows.TCP_KEEPINTVL
	tcpKeepCnt   = windows.TCP_KEEPCNT
	solSocket    = windows.SOL_SOCKET
	soKeepAlive  = windows.SO_KEEPALIVE
	soRcvBuf     = windows.SO_RCVBUF
	soSndBuf     = windows.SO_SNDBUF
)

// Not in x/sys.
const (
	msgPeek = 0x2
	soType  = 0x1008

	pollErr    = 0x1
	pollHup    = 0x2
	pollNval   = 0x4
	pollRdNorm = 0x100
)

var procWSAPoll = windows.NewLazySystemDLL("ws2_32.dll").NewProc("WSAPoll")

func set(fd uintptr, option string, level, opt, value int) error {
	return check("setsockopt", option, windows.SetsockoptInt(windows.Handle(fd), level, opt, value))
}

func get(fd uintptr, option string, level, opt int) (int, error) {
	n, err := windows.GetsockoptInt(windows.Handle(fd), level, opt)
	return n, check("getsockopt", option, err)
}

// check sorts errnos into "this system or socket does not know the option" and
// real errors.
func check(call, option string, err error) error {
	unsupported := err == windows.WSAENOPROTOOPT || err == windows.WSAEOPNOTSUPP
	return wrap(call, option, err, unsupported)
}

// SetsKeepAlive reports whether SetKeepAlive does all that this system can. If
// not, package net knows how to do more: before version 1709 of Windows 10 the
// times could be set by an ioctl only.
func SetsKeepAlive() bool {
	major, _, build := windows.RtlGetNtVersionNumbers()
	return major > 10 || major == 10 && build >= 16299
}

// SetUserTimeout sets TCP_MAXRTMS, or TCP_MAXRT in seconds where that is
// missing; 0 is the system's own limit.
func SetUserTimeout(fd uintptr, d time.Duration) error {
	ms, ok := units(d, time.Millisecond)
	if !ok {
		return wrap("setsockopt", "TCP_MAXRTMS", windows.WSAEINVAL, false)
	}
	if set(fd, "TCP_MAXRTMS", ipprotoTCP, windows.TCP_MAXRTMS, ms) == nil {
		return nil
	}
	seconds, _ := units(d, time.Second)
	return set(fd, "TCP_MAXRT", ipprotoTCP, windows.TCP_MAXRT, seconds)
}

// UserTimeout returns TCP_MAXRTMS, or TCP_MAXRT where that is missing; 0 is the
// system's own limit.
func UserTimeout(fd uintptr) (time.Duration, error) {
	n, err := get(fd, "TCP_MAXRTMS", ipprotoTCP, windows.TCP_MAXRTMS)
	unit := time.Millisecond
	if err != nil {
		n, err = get(fd, "TCP_MAXRT", ipprotoTCP, windows.TCP_MAXRT)
		unit = time.Second
	}
	return time.Duration(max(n, 0)) * unit, err
}

// IsTCP reports whether fd is a TCP socket.
func IsTCP(fd uintptr) bool {
	t, err := windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, soType)
	if err != nil || t != windows.SOCK_STREAM {
		return false
	}
	sa, err := windows.Getsockname(windows.Handle(fd))
	if err != nil {
		return false
	}
	switch sa.(type) {
	case *windows.SockaddrInet4, *windows.SockaddrInet6:
		return true
	}
	return false
}

// wsaPollFd is WSAPOLLFD.
type wsaPollFd struct {
	fd      windows.Handle
	events  int16
	revents int16
}

// Poll returns the events that are pending now. It waits for nothing and
// consumes nothing. It can't tell a FIN behind unread bytes from the bytes.
func Poll(fd uintptr) (Events, error) {
	if err := procWSAPoll.Find(); err != nil {
		return 0, missing("WSAPoll")
	}
	p := wsaPollFd{fd: windows.Handle(fd), events: pollRdNorm}
	r, _, err := procWSAPoll.Call(uintptr(unsafe.Pointer(&p)), 1, 0)
	if int32(r) < 0 {
		return 0, wrap("wsapoll", "poll", err, false)
	}
	if p.revents&pollNval != 0 {
		return 0, wrap("wsapoll", "poll", windows.WSAENOTSOCK, false)
	}
	var e Events
	if p.revents&pollRdNorm != 0 {
		e |= Readable
	}
	if p.revents&pollHup != 0 {
		e |= HangUp
	}
	if p.revents&pollErr != 0 {
		e |= Failed
	}
	return e, nil
}

// Peek looks for what is waiting to be read, without reading it or waiting. It
// returns
//
//	1, nil             bytes are waiting
//	0, nil             a FIN was received
//	0, syscall.EAGAIN  nothing is there
//	0, another errno   the connection is dead
//
// Go's sockets block on Windows, so it polls first; nobody else may read from
// the connection meanwhile.
func Peek(fd uintptr) (n int, err error) {
	e, err := Poll(fd)
	if err != nil {
		return 0, err
	}
	if e == 0 {
		return 0, syscall.EAGAIN
	}
	var b [1]byte
	var got uint32
	flags := uint32(msgPeek)
	buf := windows.WSABuf{Len: 1, Buf: &b[0]}
	switch err := windows.WSARecv(windows.Handle(fd), &buf, 1, &got, &flags, nil, nil); err {
	case nil, windows.WSAEMSGSIZE:
		return int(got), nil
	case windows.WSAEWOULDBLOCK:
		return 0, syscall.EAGAIN
	default:
		return 0, err
	}
}
