//go:build !plan9

package health

import (
	"io"
	"runtime"
	"syscall"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// pollTellsEnd is whether poll reports a FIN as such, also behind bytes that
// wait, and an error only of itself when the connection goes on.
const pollTellsEnd = runtime.GOOS == "linux"

// sniff asks about a connection that nobody else is using: it may consume a
// pending errno, as a read would.
func sniff(fd uintptr, layered bool) (err error, dead bool) {
	if layered && pollTellsEnd {
		return sniffEvents(fd)
	}
	n, err := sockopt.Peek(fd)
	switch {
	case err == syscall.EAGAIN:
		return nil, false
	case err != nil:
		return err, !isSoft(fd)
	case n == 0:
		return io.EOF, true
	case layered:
		return sniffEvents(fd) // what waits may be session tickets
	}
	return ErrUnread, false
}

// sniffEvents looks for an end behind bytes that wait.
func sniffEvents(fd uintptr) (err error, dead bool) {
	e, err := sockopt.Poll(fd)
	if err != nil || e&^sockopt.Readable == 0 {
		return err, false
	}
	if e&(sockopt.Failed|sockopt.HangUp) != 0 {
		// Unless bytes wait before it, the errno can be had.
		if _, err := sockopt.Peek(fd); err != nil && err != syscall.EAGAIN {
			return err, !isSoft(fd)
		}
	}
	cause := judgeEvents(fd, e)
	return cause, cause != nil
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
	var info sockopt.Info
	switch err := sockopt.TCPInfo(fd, &info); {
	case err != nil:
		return errFailed
	case info.State != sockopt.StateClose:
		return io.EOF
	case info.Probes > 0 || info.Retransmits > 0 || info.Backoff > 0:
		return syscall.ETIMEDOUT
	}
	return syscall.ECONNRESET
}

// isSoft reports whether the connection still exists behind the errno that it
// has just reported: with IP_RECVERR, a router's word is an errno at once.
func isSoft(fd uintptr) bool {
	var info sockopt.Info
	return sockopt.TCPInfo(fd, &info) == nil && info.State == sockopt.StateEstablished
}
