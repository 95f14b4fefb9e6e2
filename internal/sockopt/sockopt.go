// Package sockopt sets and reads the socket options that decide how fast a dead
// peer is found, and asks the kernel what it knows about a connection without
// moving a byte of it. Every line of this module that depends on the operating
// system's sockets lives here.
//
// Functions take the descriptor that [syscall.RawConn] hands to Control. What a
// system, a kernel or a kind of socket doesn't know is an error for which
// errors.Is(err, errors.ErrUnsupported) holds and which keeps the errno, if
// there was one. Every other error is a real one: a value that the kernel
// refused, or a descriptor that isn't a socket.
//
// Durations are rounded up to the kernel's unit, so that a positive duration
// never becomes 0, which to most kernels means something else altogether.
//
// # What works where
//
//	                  Linux  macOS  Windows  FreeBSD  NetBSD  OpenBSD  others
//	keep-alive         yes    yes    yes      yes      yes    on/off    no
//	user timeout       yes    yes¹   yes²     no       no      no       no
//	RTO max            6.15   no     no       no       no      no       no
//	fast unreachable   yes    no     no       no       no      no       no
//	TCP_INFO           yes    no     no       no       no      no       no
//	peek, poll         yes    yes    yes      yes      yes     yes      no
//	disconnect         yes    no     no       no       no      no       no
//	transport ping³    yes    no     no       no       no      no       no
//	half-open          yes    no     no       no       no      no       no
//
// ¹ TCP_RXT_CONNDROPTIME, in seconds, counted from the first retransmission on
// and looked at only when another one is due (tcp_timer.c in Apple's xnu).
// ² TCP_MAXRTMS, or TCP_MAXRT in seconds ("IPPROTO_TCP socket options" at
// learn.microsoft.com). Keep-alive is all there since version 1709 of Windows 10,
// see [SetsKeepAlive].
// ³ [ReadTimers], [Ask], [Shield] and [Restore].
//
// DragonFly is like FreeBSD. Only what Linux does is tested.
package sockopt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"syscall"
	"time"
)

// KeepAlive is the keep-alive state of a TCP socket.
type KeepAlive struct {
	// Enable is SO_KEEPALIVE.
	Enable bool

	// Idle is how long nothing must have been received before the first probe.
	// When setting, zero or less leaves what the socket has.
	Idle time.Duration

	// Interval is the time between probes. When setting, zero or less leaves
	// what the socket has.
	Interval time.Duration

	// Count is the number of unanswered probes after which the connection is
	// dead, where no user timeout overrides it. When setting, zero or less
	// leaves what the socket has.
	Count int
}

// Timers is what decides when the kernel asks the peer of a TCP connection and
// when it gives the connection up; see [ReadTimers], [Ask], [Shield] and
// [Restore].
type Timers struct {
	// KeepAlive and UserTimeout are what [ReadTimers] read.
	KeepAlive   KeepAlive
	UserTimeout time.Duration

	// Shielded is the backstop that [Shield] was called with since, noted here by
	// the caller. Zero: it wasn't called, and [Restore] touches nothing but what
	// [Ask] did.
	Shielded time.Duration
}

// Events is what poll says about a socket, see [Poll].
type Events uint8

// The events of [Poll].
const (
	Readable   Events = 1 << iota // bytes, a FIN or an error can be read
	ReadClosed                    // the peer will send nothing more (Linux only)
	HangUp                        // both directions are closed
	Failed                        // an error is pending
)

// maxLayers bounds the search for the connection below a stack of wrappers.
const maxLayers = 16

// Unwrap returns the connection at the bottom of c, by following NetConn
// methods, which *tls.Conn and many wrappers have. Layered reports whether
// something between c and the socket may transform bytes, so that bytes waiting
// in the kernel need not be bytes for c's reader; anything but a connection of
// package net itself counts as such.
func Unwrap(c net.Conn) (inner net.Conn, layered bool) {
	for range maxLayers {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok || isNil(c) {
			break
		}
		below := w.NetConn()
		if isNil(below) {
			break
		}
		c, layered = below, true
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn, *net.UDPConn, *net.IPConn:
		return c, layered
	}
	return c, true
}

// isNil reports whether there is no connection in c, or a nil pointer to one.
func isNil(c net.Conn) bool {
	v := reflect.ValueOf(c)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// Control calls f with the descriptor at the bottom of c. It returns f's error,
// or the reason why f could not be called: net.ErrClosed if c is closed,
// errors.ErrUnsupported if there is no descriptor: net.Pipe, say, or c is nil,
// a nil pointer or new(net.TCPConn).
//
// The descriptor is valid only until f returns.
func Control(c net.Conn, f func(fd uintptr) error) error {
	inner, _ := Unwrap(c)
	sc, ok := inner.(syscall.Conn)
	if isNil(inner) {
		return fmt.Errorf("sockopt: a nil %T is no connection: %w", inner, errors.ErrUnsupported)
	}
	if !ok {
		return fmt.Errorf("sockopt: %T has no file descriptor: %w", inner, errors.ErrUnsupported)
	}
	rc, err := sc.SyscallConn()
	if err == syscall.EINVAL { // package net's word for a zero value
		return fmt.Errorf("sockopt: this %T was never connected: %w", inner, errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = f(fd) }); err != nil {
		return err
	}
	return opErr
}

// unsupportedError keeps the errno beside the fact that it means "not here".
type unsupportedError struct{ err error }

func (e *unsupportedError) Error() string        { return e.err.Error() }
func (e *unsupportedError) Unwrap() error        { return e.err }
func (e *unsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

// wrap names the option and the call in a failed call's error.
func wrap(call, option string, errno error, unsupported bool) error {
	if errno == nil {
		return nil
	}
	err := fmt.Errorf("%s: %w", option, os.NewSyscallError(call, errno))
	if unsupported {
		return &unsupportedError{err}
	}
	return err
}

// units returns d in units of u, rounded up. It reports false if the result
// does not fit the 31 bits that socket options have, or d is negative.
func units(d, u time.Duration) (int, bool) {
	if d < 0 {
		return 0, false
	}
	n := d / u
	if d%u != 0 {
		n++
	}
	if n > 1<<31-1 {
		return 0, false
	}
	return int(n), true
}
