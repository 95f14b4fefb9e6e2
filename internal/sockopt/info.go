package sockopt

import (
	"strconv"
	"time"
)

// State is a TCP connection's state, numbered as Linux does.
type State uint8

// The states of TCP.
const (
	StateEstablished State = iota + 1
	StateSynSent
	StateSynRecv
	StateFinWait1
	StateFinWait2
	StateTimeWait
	StateClose
	StateCloseWait
	StateLastAck
	StateListen
	StateClosing
)

// String returns the state's name as RFC 9293 writes it.
func (s State) String() string {
	names := [...]string{"", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2",
		"TIME-WAIT", "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING"}
	if s == 0 || int(s) >= len(names) {
		return "state " + strconv.Itoa(int(s))
	}
	return names[s]
}

// Info is what the kernel knows about a TCP connection: the part of TCP_INFO
// that says whether the peer is there. Fields that the kernel did not return
// are zero; [Info.Has] tells them from true zeros. Counters wrap: compare them
// with !=.
type Info struct {
	// Len is the number of bytes that the kernel returned.
	Len int

	State       State
	Retransmits uint8 // of the segment at the head of the queue, in a row
	Probes      uint8 // unanswered keep-alive or zero-window probes
	Backoff     uint8 // exponent of the back-off of RTO or of probes

	RTO    time.Duration
	RTT    time.Duration // smoothed
	RTTVar time.Duration

	Unacked uint32 // segments in flight

	// How long ago. They move in the kernel's ticks, mostly 4 ms.
	LastDataSent time.Duration
	LastDataRecv time.Duration
	LastAckRecv  time.Duration

	TotalRetrans uint32 // segments retransmitted since the connection was made

	BytesAcked    uint64 // since Linux 4.1
	BytesReceived uint64 // since Linux 4.1
	SegsOut       uint32 // since Linux 4.2
	SegsIn        uint32 // since Linux 4.2
	NotSent       uint32 // bytes in the queue that never left; since Linux 4.6
	MinRTT        time.Duration
	DataSegsIn    uint32 // since Linux 4.6
	DataSegsOut   uint32 // since Linux 4.6
	BytesSent     uint64 // since Linux 4.19; retransmissions count
	BytesRetrans  uint64 // since Linux 4.19
	SndWnd        uint32 // bytes that the peer is ready to take; since Linux 5.4
}

// Field is a group of fields of [Info] that came with one version of Linux.
type Field uint8

// The groups of fields that [Info.Has] knows.
const (
	FieldBasic     Field = iota // State to TotalRetrans
	FieldBytes                  // BytesAcked, BytesReceived
	FieldSegs                   // SegsOut, SegsIn
	FieldNotSent                // NotSent, MinRTT
	FieldDataSegs               // DataSegsIn, DataSegsOut
	FieldBytesSent              // BytesSent, BytesRetrans
	FieldSndWnd                 // SndWnd
)

// Has reports whether the kernel returned all fields of group f.
func (i *Info) Has(f Field) bool {
	ends := [...]int{
		FieldBasic:     104,
		FieldBytes:     136,
		FieldSegs:      144,
		FieldNotSent:   152,
		FieldDataSegs:  160,
		FieldBytesSent: 216,
		FieldSndWnd:    232,
	}
	return int(f) < len(ends) && i.Len >= ends[f]
}

// SincePeerHeard returns how long ago anything at all was received from the
// peer.
func (i *Info) SincePeerHeard() time.Duration { return min(i.LastDataRecv, i.LastAckRecv) }
