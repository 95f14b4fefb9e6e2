package netlab

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// State is the state of a TCP socket, numbered as Linux numbers them.
type State uint8

// The states.
const (
	Established State = 1 + iota
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

// String returns the state's usual name, such as "ESTABLISHED".
func (s State) String() string {
	names := [...]string{"0", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
		"CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}
	if int(s) < len(names) {
		return names[s]
	}
	return strconv.Itoa(int(s))
}

// Socket is a TCP socket in a host's kernel.
type Socket struct {
	Local, Remote netip.AddrPort
	State         State
	Unacked       int  // bytes written and not yet acknowledged by the peer's kernel
	Unread        int  // bytes received and not yet read; for Listen: connections not yet accepted
	Orphan        bool // no process has it any more; the kernel is still finishing it
}

// Sockets returns all TCP sockets in the host's kernel, whoever made them.
func (h *Host) Sockets() []Socket {
	var sockets []Socket
	err := h.Do(func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				return err
			}
			s, err := parseSockets(string(b))
			if err != nil {
				return fmt.Errorf("/proc/net/%s: %w", name, err)
			}
			sockets = append(sockets, s...)
		}
		return nil
	})
	if err != nil {
		h.lab.fail(fmt.Errorf("netlab: sockets of %s: %w", h.name, err))
	}
	return sockets
}

// Conns returns the host's connections: all sockets but those in Listen,
// TimeWait and Close.
func (h *Host) Conns() []Socket {
	all := h.Sockets()
	conns := all[:0]
	for _, s := range all {
		if s.State != Listen && s.State != TimeWait && s.State != Close {
			conns = append(conns, s)
		}
	}
	return conns
}

func parseSockets(table string) ([]Socket, error) {
	var sockets []Socket
	lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	for _, line := range lines[1:] { // the first is the header
		s, err := parseSocket(strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

func parseSocket(f []string) (s Socket, err error) {
	if len(f) < 10 {
		return s, errors.New("too few fields")
	}
	tx, rx, ok := strings.Cut(f[4], ":")
	if !ok {
		return s, errors.New("no queues")
	}
	state, err1 := strconv.ParseUint(f[3], 16, 8)
	unacked, err2 := strconv.ParseUint(tx, 16, 32)
	unread, err3 := strconv.ParseUint(rx, 16, 32)
	local, err4 := parseAddrPort(f[1])
	remote, err5 := parseAddrPort(f[2])
	s = Socket{
		Local: local, Remote: remote, State: State(state),
		Unacked: int(unacked), Unread: int(unread), Orphan: f[9] == "0",
	}
	return s, errors.Join(err1, err2, err3, err4, err5)
}

// parseAddrPort reads "0100000A:1F90": 32-bit words in the machine's order.
func parseAddrPort(s string) (netip.AddrPort, error) {
	a, p, _ := strings.Cut(s, ":")
	port, err := strconv.ParseUint(p, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b, err := hex.DecodeString(a)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("an address of %d bytes", len(b))
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// Traffic counts what has passed a host's cable since it was plugged in, in
// packets as they are on the wire, address resolution included.
type Traffic struct {
	SentPackets, SentBytes         int64
	ReceivedPackets, ReceivedBytes int64
}

// Traffic reads the counters of the host's end of its cable.
func (h *Host) Traffic() Traffic {
	var t Traffic
	err := h.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			name, counters, _ := strings.Cut(line, ":")
			f := strings.Fields(counters)
			if strings.TrimSpace(name) != device || len(f) < 10 {
				continue
			}
			for i, p := range map[int]*int64{0: &t.ReceivedBytes, 1: &t.ReceivedPackets, 8: &t.SentBytes, 9: &t.SentPackets} {
				if *p, err = strconv.ParseInt(f[i], 10, 64); err != nil {
					return err
				}
			}
			return nil
		}
		return errors.New("no " + device)
	})
	if err != nil {
		h.lab.fail(fmt.Errorf("netlab: traffic of %s: %w", h.name, err))
	}
	return t
}
