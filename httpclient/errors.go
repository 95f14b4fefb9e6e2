package httpclient

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
)

var (
	// ErrClosed is returned once [Client.Close] was called.
	ErrClosed = errors.New("httpclient: the client is closed")

	// ErrTooManyWaiters is returned when Config.MaxWaitersPerHost requests are
	// waiting for a connection already; or the error is pool.ErrTooManyWaiters.
	ErrTooManyWaiters = errors.New("too many requests are waiting")
)

// Error is why a request failed that had a host to go to. It wraps what net/http
// said, a pool's *[pool.AcquireError] if there was no connection to be had, and a
// *[health.SilenceError] if it was the guard that has ended the connection. Those
// about the request itself, such as a missing URL, are net/http's own.
type Error struct {
	Host     Host
	Attempts int   // how often the request was sent, or tried to
	Reused   bool  // whether the last connection had served requests before
	Err      error // of the last attempt

	proven bool // that no attempt had an effect
}

// Error names the host, and says how many attempts there were.
func (e *Error) Error() string {
	s := fmt.Sprintf("httpclient: %v: %v", e.Host, e.Err)
	if e.Attempts > 1 {
		s += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return s
}

// SafeToRetry reports whether it is proven that the server has acted on none of
// the attempts. It is what [health.SafeToRetry] asks for.
func (e *Error) SafeToRetry() bool { return e.proven }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether a deadline was the reason. It is what net/http and its
// users ask for.
func (e *Error) Timeout() bool {
	t, ok := errors.AsType[net.Error](e.Err)
	return ok && t.Timeout()
}

// Temporary is there because url.Error asks for it. It is false: whether to try
// again is health.SafeToRetry's to say.
func (e *Error) Temporary() bool { return false }

// unsent is an error from before anything was sent.
type unsent struct{ err error }

func (e unsent) Error() string     { return e.err.Error() }
func (e unsent) Unwrap() error     { return e.err }
func (e unsent) SafeToRetry() bool { return true }

// explainTLS says what it means that the first record isn't TLS.
func explainTLS(err error) error {
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && string(e.RecordHeader[:]) == "HTTP/" {
		return fmt.Errorf("the server answers HTTP where TLS was expected: use http, or another port: %w", err)
	}
	return err
}

// bare is what net/http's Transport would have returned: ClientConn leaves two
// notes to it in place.
func bare(err error) error {
	if t := reflect.TypeOf(err); t.PkgPath() == "net/http" && (t.Name() == "nothingWrittenError" || t.Name() == "transportReadFromServerError") {
		if inner := errors.Unwrap(err); inner != nil {
			return inner
		}
	}
	return err
}
