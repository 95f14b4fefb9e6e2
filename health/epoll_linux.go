package health

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// epoll is an epoll descriptor that waits for events in Go's own poller, so
// that it takes a goroutine and no thread.
type epoll struct {
	fd   int // for epoll_ctl; the Guard's lock sees to it that it isn't used after close
	file *os.File
	raw  syscall.RawConn
}

func newEpoll() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	switch err {
	case nil:
	case unix.ENOSYS, unix.EPERM, unix.EACCES:
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, os.NewSyscallError("epoll_create1", err))
	default:
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os would not put it into the poller
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &epoll{fd: fd, file: file, raw: raw}, nil
}

// add registers fd under id. An fd that is registered already is looked at once
// more, so that an end that was reported is reported again.
func (p *epoll) add(fd uintptr, id entryID) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(id.index),
		Pad:    int32(id.generation),
	}
	err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
	if err == unix.EEXIST {
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, int(fd), &event)
	}
	return os.NewSyscallError("epoll_ctl", err)
}

func (p *epoll) remove(fd uintptr) {
	_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, int(fd), nil)
}

// run delivers events until close.
func (p *epoll) run(deliver func(entryID, sockopt.Events)) {
	buf := make([]unix.EpollEvent, 128)
	var n int
	var waitErr error
	// The poller is told of new events only, so it is asked to wait when there
	// are no old ones.
	wait := func(fd uintptr) bool {
		for {
			n, waitErr = unix.EpollWait(int(fd), buf, 0)
			if waitErr != unix.EINTR {
				return n != 0 || waitErr != nil
			}
		}
	}
	for p.raw.Read(wait) == nil && waitErr == nil {
		for _, event := range buf[:n] {
			deliver(entryID{uint32(event.Fd), uint32(event.Pad)}, eventsOf(event.Events))
		}
	}
}

func eventsOf(mask uint32) sockopt.Events {
	var e sockopt.Events
	if mask&unix.EPOLLRDHUP != 0 {
		e |= sockopt.ReadClosed
	}
	if mask&unix.EPOLLHUP != 0 {
		e |= sockopt.HangUp
	}
	if mask&unix.EPOLLERR != 0 {
		e |= sockopt.Failed
	}
	return e
}

func (p *epoll) close() { _ = p.file.Close() }
