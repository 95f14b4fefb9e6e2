package sockopt

import (
	"time"

	"golang.org/x/sys/unix"
)

// What Ask and Shield set, and Restore takes for theirs.
const (
	askIdle        = 1   // s, the least there is
	shieldInterval = 1   // s, the least there is
	shieldCount    = 127 // the most there is
)

// ReadTimers reads the keep-alive settings and the user timeout, and clears
// t.Shielded. It allocates nothing.
func ReadTimers(fd uintptr, t *Timers) error {
	var values [5]int
	for i, o := range [len(values)]struct {
		name       string
		level, opt int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
	} {
		n, err := get(fd, o.name, o.level, o.opt)
		if err != nil {
			return err
		}
		values[i] = n
	}
	*t = Timers{
		KeepAlive: KeepAlive{
			Enable:   values[0] != 0,
			Idle:     time.Duration(values[1]) * time.Second,
			Interval: time.Duration(values[2]) * time.Second,
			Count:    values[3],
		},
		UserTimeout: time.Duration(values[4]) * time.Millisecond,
	}
	return nil
}

// Ask makes the kernel send one keep-alive probe: at once, within a tick, if
// nothing was received for a second or more, and otherwise when that second is
// over. The peer's kernel answers it; no byte of the application's moves, and
// what lies above TCP sees nothing. [TCPInfo] tells that it was answered: the
// state is still the same, SincePeerHeard is less than the time since Ask, Probes
// is 0, and SegsOut has moved, as it also does when a probe of the peer's is
// answered. Where DataSegsIn has moved, data came in, which says nothing about
// the way out.
//
// It switches SO_KEEPALIVE on and sets TCP_KEEPIDLE to 1 s: if keep-alive is on
// already, a new idle time starts the kernel's timer anew with what remains of it
// (tcp_sock_set_keepidle in net/ipv4/tcp.c). [Restore] undoes both.
//
// No probe is sent while data is unacknowledged or waits for the peer's window
// (tcp_keepalive_timer): retransmissions and window probes ask then. The timer's
// rule is also what makes Ask dangerous without [Shield]: before it sends a probe
// it kills the connection if nothing was received for the user timeout and a
// probe is unanswered, or, without a user timeout, if TCP_KEEPCNT are.
//
// Unanswered probes are forgotten when anything is received, and only then. So
// one that was lost is still counted after the path has healed, and an idle
// connection is killed for it at its next tick: ask again, shielded, until there
// is an answer. Less than half a second after the peer's kernel answered a probe
// it answers no other one (net.ipv4.tcp_invalid_ratelimit): ask 600 ms apart.
//
// Ask allocates nothing.
func Ask(fd uintptr) error {
	// The kernel ignores it if it's on.
	if err := set(fd, "SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return err
	}
	return set(fd, "TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, askIdle)
}

// Shield keeps the kernel from killing a connection for unanswered probes or
// retransmissions until nothing was received for backstop: it sets
// TCP_USER_TIMEOUT to backstop, TCP_KEEPCNT to 127, in case that the user timeout
// is taken back, and TCP_KEEPINTVL to 1 s. While Ask's idle time is in place the
// kernel therefore repeats unanswered probes every second. Their count, 8 bits
// wide, is 0 again after 256 of them; SincePeerHeard isn't.
//
// backstop must be positive, since 0 means the kernel's own limit. Whoever wants
// [Restore] to undo it notes backstop in Timers.Shielded. Shield allocates
// nothing.
func Shield(fd uintptr, backstop time.Duration) error {
	n, ok := units(backstop, time.Millisecond)
	if !ok || n == 0 {
		return wrap("setsockopt", "TCP_USER_TIMEOUT", unix.EINVAL, false)
	}
	// With a user timeout the kernel doesn't look at the count.
	if err := set(fd, "TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, n); err != nil {
		return err
	}
	if err := set(fd, "TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, shieldCount); err != nil {
		return err
	}
	return set(fd, "TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, shieldInterval)
}

// Restore undoes [Ask] and, if t.Shielded says so, [Shield]: it puts back what
// [ReadTimers] read before them, but leaves alone every option that no longer has
// the value they gave it, because the connection's owner has set it since.
// Keep-alive that was off is switched off, unless the owner has changed the idle
// time.
//
// The idle time comes last, since it starts the timer anew. If nothing was
// received for as long as the restored idle time, the timer fires at once, and
// that is the kernel's verdict: with a probe unanswered, nothing received for the
// restored user timeout kills the connection with ETIMEDOUT; without a user
// timeout as many unanswered probes as the restored count do. Before that time
// it sends one more probe. So restore when the peer was heard, or when the
// connection's time is up. With data in flight nothing happens before the next
// retransmission is due. With a closed window the restored user timeout counts
// from the window's first probe (tcp_probe_timer): it kills at the next one,
// though the peer answers them.
//
// Where both a reader and a writer may be pending, [Disconnect] is the better
// end: the kernel tells only one of the two, and the other may be the reader,
// who then reads io.EOF.
//
// It tries all of them and returns the first error. Restore allocates nothing.
func Restore(fd uintptr, t *Timers) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if t.Shielded > 0 {
		ms, _ := units(t.Shielded, time.Millisecond)
		keep(swap(fd, "TCP_KEEPINTVL", unix.TCP_KEEPINTVL, shieldInterval, int(t.KeepAlive.Interval/time.Second)))
		keep(swap(fd, "TCP_KEEPCNT", unix.TCP_KEEPCNT, shieldCount, t.KeepAlive.Count))
		keep(swap(fd, "TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT, ms, int(t.UserTimeout/time.Millisecond)))
	}
	if !t.KeepAlive.Enable {
		idle, err := get(fd, "TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if keep(err); err == nil && idle == askIdle {
			// Before the idle time, which then starts no timer.
			keep(set(fd, "SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0))
		}
	}
	keep(swap(fd, "TCP_KEEPIDLE", unix.TCP_KEEPIDLE, askIdle, int(t.KeepAlive.Idle/time.Second)))
	return first
}

// swap sets an option of TCP to a new value if it has the old one.
func swap(fd uintptr, option string, opt, old, new int) error {
	n, err := get(fd, option, unix.IPPROTO_TCP, opt)
	if err != nil || n != old {
		return err
	}
	return set(fd, option, unix.IPPROTO_TCP, opt, new)
}

// HalfOpen prepares a socket, before it connects, for finding out whether the
// peer's kernel answers a fresh connection, without its application seeing one:
// the ACK that would complete the handshake is held back (TCP_QUICKACK off; the
// kernel delays it for 200 ms at most), and Close sends a reset (SO_LINGER of 0).
// Closed within that time after connect, the connection was never in the
// listener's accept queue. No byte can be read or written in between.
func HalfOpen(fd uintptr) error {
	// Or connect would succeed without asking anybody.
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 0)
	linger := unix.Linger{Onoff: 1}
	if err := unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &linger); err != nil {
		return check(fd, "setsockopt", "SO_LINGER", err)
	}
	return set(fd, "TCP_QUICKACK", unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
}
