//go:build !plan9

package health

import (
	"io"
	"runtime"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// pollTellsEnd is whether poll reports a FIN as such, also behind bytes that
// wait, and an error only of itself when the connection goes on.
const pollTellsEnd = runtime.GOOS == "linux"

// sniff asks about a connection that nobody else is using: it may consume a
// pending errno, as a read would.
func sniff(fd uintptr, layered bool) (err error, dead bool) {
	if layered && pollTellsEnd {
		return sniffEvents(fd, layered)
	}
	n, err := sockopt.Peek(fd)
	switch {
	case err == syscall.EAGAIN:
		return nil, false
	case err == syscall.ENOSYS, err == syscall.EPERM: // a sandbox's word, not the connection's
		return sniffEvents(fd, layered)
	case err != nil:
		return err, !isSoft(fd)
	case n == 0:
		return io.EOF, true
	case layered:
		return sniffEvents(fd, layered) // what waits may be session tickets
	}
	return ErrUnread, false
}

// sniffEvents looks for an end behind bytes that wait.
func sniffEvents(fd uintptr, layered bool) (err error, dead bool) {
	e, err := sockopt.Poll(fd)
	if err != nil {
		return err, false
	}
	if e&(sockopt.Failed|sockopt.HangUp) != 0 {
		// Unless bytes wait before it, the errno can be had.
		switch _, err := sockopt.Peek(fd); err {
		case nil, syscall.EAGAIN, syscall.ENOSYS, syscall.EPERM:
		default:
			return err, !isSoft(fd)
		}
	}
	if cause := judgeEvents(fd, e); cause != nil {
		return cause, true
	}
	if e&sockopt.Readable != 0 && !layered {
		return ErrUnread, false
	}
	return nil, false
}

// judgeEvents returns the cause of death if that is what e means, and nil
// otherwise. It consumes nothing: an errno that somebody else has yet to read
// is inferred from TCP_INFO.
func judgeEvents(fd uintptr, e sockopt.Events) error {
	const end, failure = sockopt.ReadClosed | sockopt.HangUp, sockopt.HangUp | sockopt.Failed
	if e&end == 0 && (pollTellsEnd || e&sockopt.Failed == 0) {
		return nil // at most an error that a router reported; the connection may outlive it
	}
	if e&failure == 0 {
		return io.EOF
	}
	failed := e&sockopt.Failed != 0
	var info sockopt.Info
	switch err := sockopt.TCPInfo(fd, &info); {
	case err != nil:
		if pollTellsEnd && !failed {
			return io.EOF // of a Unix socket, whose end is one of both directions
		}
		return errEnded
	case info.State != sockopt.StateClose:
		return io.EOF
	case silent(fd, &info):
		return syscall.ETIMEDOUT
	case !failed:
		return errEnded // both sides closed it, or its owner took the errno
	}
	return syscall.ECONNRESET
}

// silent reports whether the peer was silent for as long as the connection's
// limits allow, rather than ending it itself in the middle of a silence.
func silent(fd uintptr, info *sockopt.Info) bool {
	if info.Probes == 0 && info.Retransmits == 0 {
		return false
	}
	const (
		tick = 10 * time.Millisecond // of the slowest kernel's clock
		// patience is what RFC 1122 wants an unlimited sender to have at least.
		// Linux takes 15 minutes, or what net.ipv4.tcp_retries2 says.
		patience = 100 * time.Second
	)
	since := info.SincePeerHeard() + tick
	if limit, err := sockopt.UserTimeout(fd); err == nil && limit > 0 {
		return since >= limit
	}
	if info.Retransmits > 0 {
		return since >= patience
	}
	ka, err := sockopt.GetKeepAlive(fd)
	return err == nil && since >= ka.Idle+time.Duration(ka.Count)*ka.Interval
}

// isSoft reports whether the connection still exists behind the errno that it
// has just reported: with IP_RECVERR, a router's word is an errno at once.
func isSoft(fd uintptr) bool {
	var info sockopt.Info
	return sockopt.TCPInfo(fd, &info) == nil && info.State == sockopt.StateEstablished
}
