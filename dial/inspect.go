package dial

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

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
}

// Inspect asks the kernel what is in force on a connection: any connection, not
// only a Dialer's, through TLS and through every wrapper that has a NetConn
// method. It changes nothing. The error is net.ErrClosed on a closed connection
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
	var errs [6]error
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

	var info sockopt.Info
	err = sockopt.TCPInfo(fd, &info)
	errs[5] = s.note("TCP info", err)
	if err == nil {
		s.State, s.LastHeard, s.RTT = info.State.String(), info.SincePeerHeard(), info.RTT
	}
	s.MultipathTCP, s.MultipathInUse = sockopt.IsMPTCP(fd)
	s.DetectIdle, s.DetectBusy = detection(runtime.GOOS, s.KeepAlive, s.UserTimeout)
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
func detection(goos string, ka net.KeepAliveConfig, userTimeout time.Duration) (idle, busy time.Duration) {
	if goos == "linux" || goos == "android" {
		return DetectionTime(ka, userTimeout)
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
	if s.State == sockopt.StateClose.String() {
		return b.String() + ": dead (" + s.State + ")"
	}
	if s.DetectIdle == 0 && s.DetectBusy == 0 {
		fmt.Fprintf(&b, ": no silent death; buffers %d/%d", s.ReadBuffer, s.WriteBuffer)
		return b.String()
	}
	fmt.Fprintf(&b, ": silent death noticed after %s idle, %s busy", short(s.DetectIdle), short(s.DetectBusy))
	ka, ut := "off", "none"
	if s.KeepAlive.Enable {
		ka = KeepAlive(s.KeepAlive).String()
	}
	if s.UserTimeout > 0 {
		ut = short(s.UserTimeout)
	}
	fmt.Fprintf(&b, "; keep-alive %s, user timeout %s", ka, ut)
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
	fmt.Fprintf(&b, ", buffers %d/%d", s.ReadBuffer, s.WriteBuffer)
	if s.State != "" {
		fmt.Fprintf(&b, "; %s, heard %v ago, round trip %v", s.State, s.LastHeard, s.RTT)
	}
	if len(s.Unsupported) > 0 {
		b.WriteString("; unsupported: " + strings.Join(s.Unsupported, ", "))
	}
	return b.String()
}

func name(a net.Addr) string {
	if a == nil || a.String() == "" {
		return "?"
	}
	return a.Network() + " " + a.String()
}
