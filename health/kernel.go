package health

import (
	"errors"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// tick is more than how inexact the kernel's ages are: two of its ticks.
const tick = 20 * time.Millisecond

// kernel is what a connection's socket is asked and told. Errors wrap
// net.ErrClosed if the owner has closed it. It is for one goroutine.
type kernel interface {
	info(w *Watch, info *sockopt.Info) error
	timers(w *Watch, t *sockopt.Timers) error
	ask(w *Watch) error
	shield(w *Watch, backstop time.Duration) error
	restore(w *Watch, t *sockopt.Timers) error
	// rtoMax replaces the cap of the retransmission time-out.
	rtoMax(w *Watch, d time.Duration) (before time.Duration, err error)
	// sever ends the connection, if sure still says so at the last moment.
	sever(w *Watch, sure func(*sockopt.Info) bool) (done bool, err error)
}

// sockets is the real one. Its functions are made once, so that asking
// allocates nothing.
type sockets struct {
	err    error
	asked  sockopt.Info
	opts   sockopt.Timers
	far    time.Duration
	infoFn func(fd uintptr)
	optsFn func(fd uintptr)
	askFn  func(fd uintptr)
	farFn  func(fd uintptr)
	backFn func(fd uintptr)
	rtoFn  func(fd uintptr)
	rto    time.Duration
}

func newSockets() *sockets {
	s := &sockets{}
	s.infoFn = func(fd uintptr) { s.err = sockopt.TCPInfo(fd, &s.asked) }
	s.optsFn = func(fd uintptr) { s.err = sockopt.ReadTimers(fd, &s.opts) }
	s.askFn = func(fd uintptr) { s.err = sockopt.Ask(fd) }
	s.farFn = func(fd uintptr) { s.err = sockopt.Shield(fd, s.far) }
	s.backFn = func(fd uintptr) { s.err = sockopt.Restore(fd, &s.opts) }
	s.rtoFn = func(fd uintptr) {
		before, err := sockopt.RTOMax(fd)
		if err == nil {
			err = sockopt.SetRTOMax(fd, s.rto)
		}
		s.rto, s.err = before, err
	}
	return s
}

// control has f done to w's descriptor. f leaves its error in s.err.
func (s *sockets) control(w *Watch, f func(fd uintptr)) error {
	if err := w.raw.Control(f); err != nil {
		return err
	}
	return s.err
}

func (s *sockets) info(w *Watch, info *sockopt.Info) error {
	err := s.control(w, s.infoFn)
	*info = s.asked
	return err
}

func (s *sockets) timers(w *Watch, t *sockopt.Timers) error {
	err := s.control(w, s.optsFn)
	*t = s.opts
	return err
}

func (s *sockets) ask(w *Watch) error { return s.control(w, s.askFn) }

func (s *sockets) shield(w *Watch, backstop time.Duration) error {
	s.far = backstop
	return s.control(w, s.farFn)
}

func (s *sockets) restore(w *Watch, t *sockopt.Timers) error {
	s.opts = *t
	return s.control(w, s.backFn)
}

func (s *sockets) rtoMax(w *Watch, d time.Duration) (before time.Duration, err error) {
	s.rto = d
	err = s.control(w, s.rtoFn)
	return s.rto, err
}

func (s *sockets) sever(w *Watch, sure func(*sockopt.Info) bool) (done bool, err error) {
	err = s.control(w, func(fd uintptr) {
		if s.err = sockopt.TCPInfo(fd, &s.asked); s.err == nil && !sure(&s.asked) {
			return
		}
		done = true
		s.err = sockopt.Disconnect(fd)
	})
	return done, err
}

var errNotAskable = errors.New("health: no TCP connection that can be asked")

// askable reports whether a policy can be applied to w's connection.
func (s *sockets) askable(w *Watch, info *sockopt.Info) error {
	if err := s.info(w, info); err != nil {
		return err
	}
	if !info.Has(sockopt.FieldDataSegs) { // a kernel before 4.6, or one that isn't Linux
		return errNotAskable
	}
	multipath := false
	if err := w.raw.Control(func(fd uintptr) { multipath, _ = sockopt.IsMPTCP(fd) }); err != nil {
		return err
	}
	if multipath {
		return errNotAskable
	}
	return nil
}

// closeHard is how a connection is ended where the kernel can't disconnect it:
// the peer reads a reset, and the owner an error that says that it was closed.
func closeHard(c net.Conn) error {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	return c.Close()
}
