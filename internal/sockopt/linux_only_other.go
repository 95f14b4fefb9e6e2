//go:build !linux

package sockopt

import (
	"errors"
	"fmt"
	"time"
)

// SetRTOMax is unsupported on this system.
func SetRTOMax(fd uintptr, d time.Duration) error { return missing("TCP_RTO_MAX_MS") }

// RTOMax is unsupported on this system.
func RTOMax(fd uintptr) (time.Duration, error) { return 0, missing("TCP_RTO_MAX_MS") }

// SetRecvErr is unsupported on this system.
func SetRecvErr(fd uintptr, on bool) error { return missing("IP_RECVERR") }

// RecvErr is unsupported on this system.
func RecvErr(fd uintptr) (bool, error) { return false, missing("IP_RECVERR") }

// TCPInfo is unsupported on this system.
func TCPInfo(fd uintptr, info *Info) error { return missing("TCP_INFO") }

// Disconnect is unsupported on this system.
func Disconnect(fd uintptr) error { return missing("disconnecting a socket") }

// ReadTimers is unsupported on this system.
func ReadTimers(fd uintptr, t *Timers) error { return missing("transport ping") }

// Ask is unsupported on this system.
func Ask(fd uintptr) error { return missing("transport ping") }

// Shield is unsupported on this system.
func Shield(fd uintptr, backstop time.Duration) error { return missing("transport ping") }

// Restore is unsupported on this system.
func Restore(fd uintptr, t *Timers) error { return missing("transport ping") }

// HalfOpen is unsupported on this system.
func HalfOpen(fd uintptr) error { return missing("half-open connection") }

// IsMPTCP reports false: Go speaks Multipath TCP on Linux only.
func IsMPTCP(fd uintptr) (socket, inUse bool) { return false, false }

// MPTCPCloseTimeout is zero: see IsMPTCP.
func MPTCPCloseTimeout() time.Duration { return 0 }

// missing is the error of what this system does not have at all.
func missing(option string) error {
	return fmt.Errorf("%s: %w", option, errors.ErrUnsupported)
}
