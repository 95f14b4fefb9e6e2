package sockopt

import (
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Not in x/sys.
const (
	solMPTCP  = 0x11c
	mptcpInfo = 1
)

// SetUserTimeout sets TCP_USER_TIMEOUT, in milliseconds; 0 is the kernel's own
// limit.
func SetUserTimeout(fd uintptr, d time.Duration) error {
	return setMillis(fd, "TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT, d)
}

// UserTimeout returns TCP_USER_TIMEOUT; 0 is the kernel's own limit.
func UserTimeout(fd uintptr) (time.Duration, error) {
	return millis(fd, "TCP_USER_TIMEOUT", unix.TCP_USER_TIMEOUT)
}

// SetRTOMax sets TCP_RTO_MAX_MS, the cap of the retransmission time-out, from
// 1 s to 120 s. Linux 6.15.
func SetRTOMax(fd uintptr, d time.Duration) error {
	return setMillis(fd, "TCP_RTO_MAX_MS", unix.TCP_RTO_MAX_MS, d)
}

// RTOMax returns TCP_RTO_MAX_MS.
func RTOMax(fd uintptr) (time.Duration, error) {
	return millis(fd, "TCP_RTO_MAX_MS", unix.TCP_RTO_MAX_MS)
}

func setMillis(fd uintptr, option string, opt int, d time.Duration) error {
	n, ok := units(d, time.Millisecond)
	if !ok {
		return wrap("setsockopt", option, unix.EINVAL, false)
	}
	return set(fd, option, unix.IPPROTO_TCP, opt, n)
}

func millis(fd uintptr, option string, opt int) (time.Duration, error) {
	n, err := get(fd, option, unix.IPPROTO_TCP, opt)
	return time.Duration(n) * time.Millisecond, err
}

// SetRecvErr makes a TCP socket report ICMP errors at once instead of when its
// retries run out: IP_RECVERR, IPV6_RECVERR, or both for an IPv6 socket, which
// may carry IPv4.
func SetRecvErr(fd uintptr, on bool) error {
	value := 0
	if on {
		value = 1
	}
	family, err := get(fd, "SO_DOMAIN", unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	switch family {
	case unix.AF_INET6:
		if err := set(fd, "IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value); err != nil {
			return err
		}
		// Only matters for an IPv4-mapped peer; older kernels refuse it here.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, value)
		return nil
	case unix.AF_INET:
		return set(fd, "IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, value)
	}
	return wrap("setsockopt", "IP_RECVERR (not an IP socket)", unix.EOPNOTSUPP, true)
}

// RecvErr returns what SetRecvErr set.
func RecvErr(fd uintptr) (bool, error) {
	family, err := get(fd, "SO_DOMAIN", unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return false, err
	}
	switch family {
	case unix.AF_INET6:
		n, err := get(fd, "IPV6_RECVERR", unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
		return n != 0, err
	case unix.AF_INET:
		n, err := get(fd, "IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR)
		return n != 0, err
	}
	return false, wrap("getsockopt", "IP_RECVERR (not an IP socket)", unix.EOPNOTSUPP, true)
}

// IsTCP reports whether fd is a TCP socket, plain or multipath.
func IsTCP(fd uintptr) bool {
	p, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return err == nil && (p == unix.IPPROTO_TCP || p == unix.IPPROTO_MPTCP)
}

// IsMPTCP reports whether fd is a Multipath TCP socket, and whether the
// connection really uses it: without the peer's consent it falls back to TCP.
func IsMPTCP(fd uintptr) (socket, inUse bool) {
	p, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || p != unix.IPPROTO_MPTCP {
		return false, false
	}
	_, err = unix.GetsockoptInt(int(fd), solMPTCP, mptcpInfo)
	return true, err != unix.EOPNOTSUPP && err != unix.ENOPROTOOPT
}

// MPTCPCloseTimeout returns how much longer Linux keeps a Multipath TCP
// connection when its last subflow has died, in the hope for another one:
// net.mptcp.close_timeout of the calling thread's network namespace. It is the
// default of a minute if that can't be read.
func MPTCPCloseTimeout() time.Duration {
	text, err := os.ReadFile("/proc/sys/net/mptcp/close_timeout")
	seconds, numErr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 31)
	if err != nil || numErr != nil {
		return time.Minute
	}
	return time.Duration(seconds) * time.Second
}

// TCPInfo fills info with what the kernel knows about fd. It allocates nothing
// and does not involve Go's scheduler.
func TCPInfo(fd uintptr, info *Info) error {
	var raw unix.TCPInfo
	n := uint32(unsafe.Sizeof(raw))
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&n)), 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return check(fd, "getsockopt", "TCP_INFO", errno)
		}
	}
	const us, ms = time.Microsecond, time.Millisecond
	*info = Info{
		Len:           int(n),
		State:         State(raw.State),
		Retransmits:   raw.Retransmits,
		Probes:        raw.Probes,
		Backoff:       raw.Backoff,
		RTO:           time.Duration(raw.Rto) * us,
		RTT:           time.Duration(raw.Rtt) * us,
		RTTVar:        time.Duration(raw.Rttvar) * us,
		Unacked:       raw.Unacked,
		LastDataSent:  time.Duration(raw.Last_data_sent) * ms,
		LastDataRecv:  time.Duration(raw.Last_data_recv) * ms,
		LastAckRecv:   time.Duration(raw.Last_ack_recv) * ms,
		TotalRetrans:  raw.Total_retrans,
		BytesAcked:    raw.Bytes_acked,
		BytesReceived: raw.Bytes_received,
		SegsOut:       raw.Segs_out,
		SegsIn:        raw.Segs_in,
		NotSent:       raw.Notsent_bytes,
		MinRTT:        time.Duration(raw.Min_rtt) * us,
		DataSegsIn:    raw.Data_segs_in,
		DataSegsOut:   raw.Data_segs_out,
		BytesSent:     raw.Bytes_sent,
		BytesRetrans:  raw.Bytes_retrans,
		SndWnd:        raw.Snd_wnd,
	}
	return nil
}

// Disconnect aborts the connection in the kernel and leaves the descriptor
// open. Whatever state it is in, its owner's next or pending call returns
// ECONNRESET; after that, and if a reader and a writer were both pending, reads
// return ENOTCONN and writes EPIPE. No read returns io.EOF, unless the peer's FIN
// was read before. Multipath TCP has no ECONNRESET: reads return ENOTCONN at once.
// Unread data is lost and TCP_INFO is zeroed, so read it before.
//
// The kernel's own verdict, a time-out or a received reset, is an error to one
// call, and io.EOF to every read after it. On a connection that died so,
// Disconnect keeps an error that nobody has been told yet, and makes later reads
// return ENOTCONN.
func Disconnect(fd uintptr) error {
	var unspec [16]byte // AF_UNSPEC is 0
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return check(fd, "connect", "AF_UNSPEC", errno)
		}
	}
}
