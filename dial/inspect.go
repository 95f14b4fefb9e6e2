package dial

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// Socket is what the kernel holds for one connection.
type Socket struct {
	Local, Remote net.Addr

	// Layered is true if there is something between the connection and its
	// socket: TLS, or a wrapper.
	Layered bool

	// DetectIdle and DetectBusy are how long this system takes to notice that
	// the peer has silently vanished, while nothing is in flight and while
	// something is, see [DetectionTime]. [Never] means that nothing is known to
	// bound it; zero that the peer can't vanish silently, as on a Unix socket.
	// On a Multipath TCP connection that is in use both contain
	// net.mptcp.close_timeout, which Linux waits for a new path when the last
	// one has died.
	DetectIdle, DetectBusy time.Duration

	KeepAlive       net.KeepAliveConfig
	UserTimeout     time.Duration // zero: none is set
	RTOMax          time.Duration // zero where the system doesn't say
	FastUnreachable bool
	NoDelay         bool
	ReadBuffer      int // bytes; Linux shows twice what was set
	WriteBuffer     int

	// MultipathTCP is true for a Multipath TCP socket, MultipathInUse if the
	// peer agreed to it.
	MultipathTCP   bool
	MultipathInUse bool

	// State is the state of the TCP connection, such as ESTABLISHED, or empty
	// where the system doesn't say.
	State string

	// LastHeard is how long ago anything was received from the peer, RTT the
	// smoothed round trip. Both are zero where the system doesn't say.
	LastHeard, RTT time.Duration

	// Unsupported names the options that this system, kernel or kind of socket
	// does not have.
	Unsupported []string

	// Guard is the view of the dialer's guard, if [Dialer.Inspect] was asked and
	// the guard watches the connection. Its State is Unwatched otherwise, and
	// where the guard reports deaths only, until there is one.
	Guard health.View
}

// Inspect asks the kernel what is in force on a connection: any connection, not
// only a Dialer's, through TLS and through every wrapper that has a NetConn
// method. It changes nothing, and shows what holds without a guard: nobody but a
// dialer knows which guard to ask, because none is global, see
// [Dialer.Inspect]. The error is net.ErrClosed on a closed connection
// and errors.ErrUnsupported on one without a socket, such as net.Pipe's, a nil
// one or a zero net.TCPConn.
func Inspect(c net.Conn) (Socket, error) {
	inner, layered := sockopt.Unwrap(c)
	s := Socket{Layered: layered}
	err := sockopt.Control(inner, func(fd uintptr) error {
		s.Local, s.Remote = inner.LocalAddr(), inner.RemoteAddr()
		network := ""
		if s.Local != nil {
			network = s.Local.Network()
		}
		switch {
		case isUnix(network):
			return s.readBuffers(fd)
		case strings.HasPrefix(network, "tcp"):
			return s.read(fd)
		}
		return fmt.Errorf("network %q: %w", network, errors.ErrUnsupported)
	})
	if err != nil {
		return Socket{}, fmt.Errorf("dial: inspect: %w", err)
	}
	return s, nil
}

// Inspect is like the function of that name, and adds the view of the dialer's
// guard if it watches the connection: nothing is added with Unguarded, after
// Close, or for a connection that the guard of a context watches.
//
// DetectIdle and DetectBusy are the guard's DetectWithin where that is shorter
// than what the kernel's options say and the system lets the guard see silence:
// DetectBusy if its policy is in force, as with SlowReaders, and DetectIdle if
// something is sent to an idle peer meanwhile. The guard adds up to 0.8 s to the
// former and up to a second to the latter. While it doubts a connection, it keeps
// the kernel from giving that up: the socket then has a long user timeout and a
// keep-alive of seconds, and its own again afterwards.
func (d *Dialer) Inspect(c net.Conn) (Socket, error) {
	s, err := Inspect(c)
	if err != nil || d.guard == nil || d.own != nil && d.closed.Load() {
		return s, err
	}
	if view, ok := d.guard.View(c); ok {
		s.guarded(view)
	}
	return s, nil
}

// guarded adds what the guard knows and promises.
func (s *Socket) guarded(view health.View) {
	s.Guard = view
	if view.State == health.Unwatched || view.State == health.Dead || view.Heard < 0 || view.DetectWithin <= 0 {
		return // it judges nothing, or sees no silence
	}
	s.DetectBusy = min(s.DetectBusy, view.DetectWithin)
	if view.FreshFor > 0 || s.KeepAlive.Enable && s.KeepAlive.Idle < view.DetectWithin {
		s.DetectIdle = min(s.DetectIdle, view.DetectWithin)
	}
}

// note records that an option is unsupported; other errors stay.
func (s *Socket) note(option string, err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		s.Unsupported = append(s.Unsupported, option)
		return nil
	}
	return err
}

func (s *Socket) readBuffers(fd uintptr) error {
	var err1, err2 error
	s.ReadBuffer, err1 = sockopt.ReadBuffer(fd)
	s.WriteBuffer, err2 = sockopt.WriteBuffer(fd)
	return errors.Join(s.note("read buffer", err1), s.note("write buffer", err2))
}

func (s *Socket) read(fd uintptr) error {
	var errs [7]error
	ka, err := sockopt.GetKeepAlive(fd)
	errs[0] = s.note("keep-alive", err)
	s.KeepAlive = net.KeepAliveConfig{Enable: ka.Enable, Idle: ka.Idle, Interval: ka.Interval, Count: ka.Count}
	s.UserTimeout, err = sockopt.UserTimeout(fd)
	errs[1] = s.note("user timeout", err)
	s.FastUnreachable, err = sockopt.RecvErr(fd)
	errs[2] = s.note("fast unreachable", err)
	s.NoDelay, err = sockopt.NoDelay(fd)
	errs[3] = s.note("no-delay", err)
	errs[4] = s.readBuffers(fd)
	s.RTOMax, err = sockopt.RTOMax(fd)
	errs[6] = s.note("RTO max", err)

	var info sockopt.Info
	err = sockopt.TCPInfo(fd, &info)
	errs[5] = s.note("TCP info", err)
	if err == nil {
		s.State, s.LastHeard, s.RTT = info.State.String(), info.SincePeerHeard(), info.RTT
	}
	s.MultipathTCP, s.MultipathInUse = sockopt.IsMPTCP(fd)
	s.DetectIdle, s.DetectBusy = detection(runtime.GOOS, s.KeepAlive, s.UserTimeout, s.RTOMax)
	if s.MultipathInUse {
		wait := sockopt.MPTCPCloseTimeout()
		s.DetectIdle, s.DetectBusy = later(s.DetectIdle, wait), later(s.DetectBusy, wait)
	}
	return errors.Join(errs[:]...)
}

// later is d + by, but never more than Never.
func later(d, by time.Duration) time.Duration { return d + min(by, Never-d) }

// detection is DetectionTime on any system. Only Linux is known to drop the
// keep-alive count beside a user timeout, and to have a limit of its own that
// can be relied on. Apple's kernel looks at the time that has passed since the
// first retransmission only when another one is due, and they are ever farther
// apart: nearly twice the user timeout may have passed by then.
func detection(goos string, ka net.KeepAliveConfig, userTimeout, rtoMax time.Duration) (idle, busy time.Duration) {
	if goos == "linux" || goos == "android" {
		idle, busy = DetectionTime(ka, userTimeout)
		if userTimeout <= 0 && rtoMax > 0 {
			busy = kernelLimit(rtoMax)
		}
		return idle, busy
	}
	idle, busy = Never, Never
	if ka.Enable && ka.Idle > 0 && ka.Interval > 0 && ka.Count > 0 {
		idle, _ = DetectionTime(ka, 0)
	}
	if userTimeout > 0 {
		busy = userTimeout
		if goos == "darwin" || goos == "ios" {
			busy = later(busy, userTimeout)
		}
	}
	return idle, busy
}

// String describes the socket in one line, the detection times first. Of a TCP
// connection that is dead already it says only that.
func (s Socket) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s", name(s.Local), name(s.Remote))
	if s.Layered {
		b.WriteString(" (layered)")
	}
	switch {
	case s.State == sockopt.StateClose.String():
		b.WriteString(": dead (" + s.State + ")")
	case s.DetectIdle == 0 && s.DetectBusy == 0:
		fmt.Fprintf(&b, ": no silent death; buffers %d/%d", s.ReadBuffer, s.WriteBuffer)
	default:
		s.describe(&b)
	}
	describeGuard(&b, s.Guard)
	return b.String()
}

func (s *Socket) describe(b *strings.Builder) {
	fmt.Fprintf(b, ": silent death noticed after %s idle, %s busy", short(s.DetectIdle), short(s.DetectBusy))
	ka, ut := "off", "none"
	if s.KeepAlive.Enable {
		ka = KeepAlive(s.KeepAlive).String()
	}
	if s.UserTimeout > 0 {
		ut = short(s.UserTimeout)
	}
	fmt.Fprintf(b, "; keep-alive %s, user timeout %s", ka, ut)
	if s.RTOMax > 0 && s.RTOMax != maxRTOMax {
		b.WriteString(", RTO max " + short(s.RTOMax))
	}
	for _, f := range []struct {
		on   bool
		name string
	}{
		{s.FastUnreachable, "fast unreachable"},
		{s.NoDelay, "no-delay"},
		{s.MultipathInUse, "multipath"},
		{s.MultipathTCP && !s.MultipathInUse, "multipath fallen back to TCP"},
	} {
		if f.on {
			b.WriteString(", " + f.name)
		}
	}
	fmt.Fprintf(b, ", buffers %d/%d", s.ReadBuffer, s.WriteBuffer)
	if s.State != "" {
		fmt.Fprintf(b, "; %s, heard %v ago, round trip %v", s.State, s.LastHeard, s.RTT)
	}
	if len(s.Unsupported) > 0 {
		b.WriteString("; unsupported: " + strings.Join(s.Unsupported, ", "))
	}
}

func describeGuard(b *strings.Builder, v health.View) {
	if v.State == health.Unwatched {
		return
	}
	fmt.Fprintf(b, "; guard: %v", v.State)
	if v.Unanswered > 0 {
		fmt.Fprintf(b, ", %d unanswered", v.Unanswered)
	}
	switch {
	case v.State == health.Dead:
		if v.Cause != nil {
			fmt.Fprintf(b, ", %v", v.Cause)
		}
	case v.State == health.Suspect || v.State == health.Quiet:
		fmt.Fprintf(b, ", silent for %v, ended after %s", max(v.Heard, 0), short(v.DetectWithin))
	case v.FreshFor > 0:
		b.WriteString(", fresh for " + short(v.FreshFor))
	default:
		b.WriteString(", not kept fresh")
	}
}

func name(a net.Addr) string {
	if a == nil || a.String() == "" {
		return "?"
	}
	return a.Network() + " " + a.String()
}
