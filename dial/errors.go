package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Phase is the step of a dial that failed.
type Phase uint8

// The phases of a dial, in their order.
const (
	PhaseAddress   Phase = iota + 1 // the network or address makes no sense; nothing was done
	PhaseLookup                     // looking the name up
	PhaseOptions                    // setting socket options, or Config.Control
	PhaseConnect                    // connecting
	PhaseWatch                      // having it watched: the guard, or the dialer, is closed
	PhaseHandshake                  // the TLS handshake
)

// String returns the phase's name in lower case.
func (p Phase) String() string {
	switch p {
	case PhaseAddress:
		return "address"
	case PhaseLookup:
		return "lookup"
	case PhaseOptions:
		return "options"
	case PhaseConnect:
		return "connect"
	case PhaseWatch:
		return "watch"
	case PhaseHandshake:
		return "handshake"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// Error is the error of a dial.
type Error struct {
	Phase            Phase
	Network, Address string // as they were passed

	// Err is the cause. Errors of package net, the errno, what a TLS handshake
	// returned and the context's error and cause are found in it by errors.Is
	// and errors.As.
	Err error

	// Advice says what to look at, if the cause has a common reason.
	Advice string

	silent bool // see PathTimeout
}

// Error names the address, the cause and the advice.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "dial: %s %q: %s: %v", e.Network, e.Address, e.Phase, e.Err)
	if e.Advice != "" {
		b.WriteString(" (" + e.Advice + ")")
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether the cause calls itself a time-out: a deadline, yours
// or Config.Timeout, or the kernel's ETIMEDOUT.
func (e *Error) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// PathTimeout reports whether Config.Timeout ran out while the peer was silent,
// in connecting or in the handshake, and the caller's context was alive: the
// dialer gave up, nobody told it to. Package health takes that for what it is,
// a path that may be dead, and not for a canceled call.
func (e *Error) PathTimeout() bool { return e.silent }

// SafeToRetry is true: a dial sends nothing of the caller's, whatever phase it
// fails in, so that the peer can't have acted on it. Package health reads it.
func (e *Error) SafeToRetry() bool { return true }

// Temporary is what net.Error wants; like package net's it means little.
func (e *Error) Temporary() bool {
	var t interface{ Temporary() bool }
	return errors.As(e.Err, &t) && t.Temporary()
}

// controlError tells a failure before connecting from one of connecting.
type controlError struct{ err error }

func (e *controlError) Error() string { return e.err.Error() }
func (e *controlError) Unwrap() error { return e.err }

// failed wraps an error of package net or crypto/tls.
func (d *Dialer) failed(ctx context.Context, phase Phase, network, address string, err error) *Error {
	e := &Error{Phase: phase, Network: network, Address: address, Err: err}
	var control *controlError
	var dns *net.DNSError
	switch {
	case phase != PhaseConnect:
	case errors.As(err, &control):
		e.Phase = PhaseOptions
	case errors.As(err, &dns):
		e.Phase = PhaseLookup
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		// The socket's deadline, which is the context's, was faster than it.
		e.Err = fmt.Errorf("%w: %w", err, context.DeadlineExceeded)
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(e.Err, cause) {
			e.Err = fmt.Errorf("%w: %w", e.Err, cause)
		}
		return e
	}
	if t, ok := ctx.Deadline(); ok && !time.Now().Before(t) {
		return e
	}
	e.silent = (e.Phase == PhaseConnect || e.Phase == PhaseHandshake) && errors.Is(e.Err, context.DeadlineExceeded)
	e.Advice = d.advice(e)
	return e
}

// advice says what commonly lies behind an error.
func (d *Dialer) advice(e *Error) string {
	err := e.Err
	var dns *net.DNSError
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var notTLS tls.RecordHeaderError
	switch {
	case e.Phase == PhaseOptions:
		return "a value that the kernel refuses, a security policy, or Config.Control"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "the name does not exist, or the resolver does not know it yet"
	case errors.As(err, &dns) && dns.IsTimeout:
		return fmt.Sprintf("the resolver did not answer within Config.Timeout, %v, or its own", d.cfg.Timeout)
	case errors.As(err, &unknownCA):
		return "set Config.TLSConfig.RootCAs if the peer's certificate is from an authority of your own"
	case errors.As(err, &hostname):
		return "set Config.TLSConfig.ServerName if the peer's certificate is for another name than the dialled one"
	case errors.As(err, &notTLS):
		return "the peer does not speak TLS on this port"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within Config.Timeout, %v", d.cfg.Timeout)
	}
	return errnoAdvice(e.Network, err)
}

// checkAddress says what is wrong with a network and an address, without any
// I/O.
func checkAddress(network, address string) error {
	fail := func(advice string, err error) error {
		return &Error{Phase: PhaseAddress, Network: network, Address: address, Err: err, Advice: advice}
	}
	switch network {
	case "unix", "unixpacket":
		if address == "" {
			return fail("give the socket's path", &net.AddrError{Err: "missing path"})
		}
		return nil
	case "tcp", "tcp4", "tcp6":
	default:
		return fail("use tcp, tcp4, tcp6 or unix", net.UnknownNetworkError(network))
	}
	if strings.Contains(address, "://") {
		return fail("give host:port, not a URL", &net.AddrError{Err: "not a host and port", Addr: address})
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		if strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "[") {
			return fail("give host:port, an IPv6 address in brackets: [::1]:6379", err)
		}
		return fail("give host:port, for instance localhost:6379", err)
	}
	if port == "" {
		return fail("give host:port, for instance "+net.JoinHostPort(host, "6379"), &net.AddrError{Err: "missing port in address", Addr: address})
	}
	if digits := strings.Trim(port, "0123456789"); digits == "" {
		if n := strings.TrimLeft(port, "0"); n == "" || len(n) > 5 || len(n) == 5 && n > "65535" {
			return fail("a port is 1 to 65535", &net.AddrError{Err: "invalid port", Addr: address})
		}
	} else if digits[0] == '-' || digits[0] == '+' {
		return fail("a port is 1 to 65535", &net.AddrError{Err: "invalid port", Addr: address})
	}
	return nil
}
