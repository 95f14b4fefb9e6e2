package health

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// epoll is an epoll descriptor that waits for events in Go's own poller, so
// that it takes a goroutine and no thread.
type epoll struct {
	fd   int // for epoll_ctl; the Guard's lock sees to it that it isn't used after close
	file *os.File
	raw  syscall.RawConn

	// What follows is the loop's.
	buf   []unix.EpollEvent
	n     int
	err   error
	get   func(fd uintptr)
	ready func(fd uintptr) bool
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
	p := &epoll{fd: fd, file: file, raw: raw, buf: make([]unix.EpollEvent, 128)}
	p.get = func(fd uintptr) {
		for {
			p.n, p.err = unix.EpollWait(int(fd), p.buf, 0)
			if p.err != unix.EINTR {
				p.n = max(p.n, 0)
				return
			}
		}
	}
	// Go's poller is told of new events only, so it is asked to wait when there
	// are no old ones.
	p.ready = func(fd uintptr) bool {
		p.get(fd)
		return p.n != 0 || p.err != nil
	}
	return p, nil
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

// drain delivers the events that there are. It reports false if there will be
// no more.
func (p *epoll) drain(deliver func(entryID, sockopt.Events)) bool {
	for {
		if p.raw.Control(p.get) != nil || p.err != nil {
			return false
		}
		if p.n == 0 {
			return true
		}
		p.deliver(deliver)
	}
}

// until sets when wait is to return at the latest, on a clock that began with
// born.
func (p *epoll) until(born time.Time, t int64) {
	var deadline time.Time
	if t != never {
		deadline = born.Add(time.Duration(t))
	}
	_ = p.file.SetReadDeadline(deadline)
}

// wake has wait return, the next time or now.
func (p *epoll) wake() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

// wait waits for events and delivers them. It reports false if there will be no
// more.
func (p *epoll) wait(deliver func(entryID, sockopt.Events)) bool {
	p.n = 0
	if err := p.raw.Read(p.ready); err != nil {
		return errors.Is(err, os.ErrDeadlineExceeded)
	}
	p.deliver(deliver)
	return p.err == nil
}

func (p *epoll) deliver(deliver func(entryID, sockopt.Events)) {
	for _, event := range p.buf[:p.n] {
		deliver(entryID{uint32(event.Fd), uint32(event.Pad)}, eventsOf(event.Events))
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
