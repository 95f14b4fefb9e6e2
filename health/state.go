package health

import (
	"fmt"
	"net"
	"syscall"
	"time"
)

// State is what a Guard knows of a connection.
type State uint8

// The states of a connection.
const (
	Unwatched  State = iota // nobody watches it, or this system doesn't tell
	Alive                   // its peer was heard lately, or there is nothing against it
	Quiet                   // its peer was not heard for Policy's FreshFor, nobody has asked
	Suspect                 // its peer was asked, or sent something, and has not answered in time
	SlowReader              // its peer takes no more data, but answers that it lives
	Dead                    // it ended
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Unwatched:
		return "unwatched"
	case Alive:
		return "alive"
	case Quiet:
		return "quiet"
	case Suspect:
		return "suspect"
	case SlowReader:
		return "slow reader"
	case Dead:
		return "dead"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// View is a Guard's view of one connection, see [Guard.View].
type View struct {
	State State

	// Heard is how long ago anything was received from the peer; negative where
	// the system doesn't say.
	Heard time.Duration

	// Unanswered is how many probes and retransmissions in a row the peer has
	// left unanswered.
	Unanswered int

	// Cause is why it is dead.
	Cause error

	// DetectWithin and FreshFor are those of the policy in force. Zero: there
	// is none, the Guard reports events only. A negative FreshFor: the
	// connection is not kept fresh.
	DetectWithin, FreshFor time.Duration
}

// StateChange is what [PolicyConfig.StateChanged] is told.
type StateChange struct {
	Conn          net.Conn // below TLS; nil if its owner has dropped it
	Local, Remote net.Addr
	From, To      State
	Silent        time.Duration // how long ago the peer was last heard; zero where nobody knows
	Unanswered    int           // as in View
	Severed       bool          // the Guard ended it, or had the kernel end it
	Cause         error         // why, if To is Dead
}

// SilenceError is why a Guard ended a connection: nobody answered any more. It
// wraps ETIMEDOUT, as the kernel would have said in the end, so that [Classify]
// takes it for [Path].
type SilenceError struct {
	Remote     net.Addr
	Silent     time.Duration // since the peer was last heard
	Unanswered int           // probes and retransmissions since

	// Fresh is true if a new connection to the same address worked meanwhile:
	// what is lost is this connection's path or its state somewhere on it.
	// Otherwise the time was over that DetectWithin allows.
	Fresh bool
}

// Error says how long the silence was and what became of the address.
func (e *SilenceError) Error() string {
	why := "and DetectWithin is over"
	if e.Fresh {
		why = "and a new connection works: this one's path is lost, or its state somewhere on it"
	}
	return fmt.Sprintf("health: %v was not heard for %v, has left %d probes unanswered, %s",
		e.Remote, e.Silent.Round(time.Millisecond), e.Unanswered, why)
}

// Unwrap returns ETIMEDOUT.
func (e *SilenceError) Unwrap() error { return syscall.ETIMEDOUT }

// SlowReaderError is why a Guard ended a connection whose peer lives: the peer
// had no room for more data for as long as the connection's user timeout. It
// wraps ETIMEDOUT, as the kernel would have said.
type SlowReaderError struct {
	Remote net.Addr
	Closed time.Duration // how long the peer's window was closed
}

// Error says for how long the peer hasn't read.
func (e *SlowReaderError) Error() string {
	return fmt.Sprintf("health: %v has read nothing for %v, longer than the connection's user timeout",
		e.Remote, e.Closed.Round(time.Millisecond))
}

// Unwrap returns ETIMEDOUT.
func (e *SlowReaderError) Unwrap() error { return syscall.ETIMEDOUT }
