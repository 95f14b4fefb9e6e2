//go:build !plan9

package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type sqlError string

func (e sqlError) Error() string    { return "server says " + string(e) }
func (e sqlError) SQLState() string { return string(e) }

type safeError bool

func (e safeError) Error() string     { return "driver" }
func (e safeError) SafeToRetry() bool { return bool(e) }

type slowError struct{}

func (slowError) Error() string { return "slow" }
func (slowError) Timeout() bool { return true }

// limitError is what a dialer with a time limit of its own returns.
type limitError struct {
	err  error
	mine bool
}

func (e *limitError) Error() string     { return "dialer: " + e.err.Error() }
func (e *limitError) Unwrap() error     { return e.err }
func (e *limitError) PathTimeout() bool { return e.mine }
func (e *limitError) SafeToRetry() bool { return true }

// opError is what package net makes of a failed call.
func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError("call", err)}
}

func TestErrorsAreClassified(t *testing.T) {
	hangup := errors.New("http2: client connection lost")
	for _, test := range []struct {
		name  string
		err   error
		class Class
		safe  bool
		never bool
	}{
		{"nil", nil, Unknown, false, false},
		{"something", errors.New("something"), Unknown, false, false},
		{"typed nil", (*net.OpError)(nil), Unknown, false, false},
		{"EOF", io.EOF, Conn, false, false},
		{"end in the middle", fmt.Errorf("reply: %w", io.ErrUnexpectedEOF), Conn, false, false},
		{"closed here", opError("read", net.ErrClosed), Conn, false, false},
		{"closed pipe", io.ErrClosedPipe, Conn, false, false},
		{"closed file", &fs.PathError{Op: "read", Err: fs.ErrClosed}, Conn, false, false},
		{"closed by cancelation", errors.Join(net.ErrClosed, context.Canceled), Canceled, false, false},
		{"unread", ErrUnread, Conn, false, false},
		{"driver.ErrBadConn", fmt.Errorf("exec: %w", driver.ErrBadConn), Conn, false, false},
		{"TLS closed here", errors.New("tls: protocol is shutdown"), Conn, false, false},
		{"sql.Conn closed here", sql.ErrConnDone, Conn, false, false},
		{"pgx", errors.New("conn closed"), Conn, false, false},
		{"MySQL", fmt.Errorf("exec: %w", errors.New("invalid connection")), Conn, false, false},
		{"closed text by cancelation", errors.Join(errors.New("conn closed"), context.Canceled), Canceled, false, false},
		{"not such a text", errors.New("invalid connection string"), Unknown, false, false},
		{"file", &fs.PathError{Op: "open", Err: syscall.EACCES}, Local, false, false},

		{"canceled", context.Canceled, Canceled, false, false},
		{"deadline of a context", fmt.Errorf("do: %w", context.DeadlineExceeded), Canceled, false, false},
		{"deadline of a connection", opError("read", os.ErrDeadlineExceeded), Canceled, false, false},
		{"time-out of a library", slowError{}, Canceled, false, false},
		{"reset beats canceled", errors.Join(context.Canceled, opError("read", syscall.ECONNRESET)), Conn, false, false},

		{"reset while dialing", opError("dial", syscall.ECONNRESET), Conn, true, false},
		{"refused while dialing", opError("dial", syscall.ECONNREFUSED), Conn, true, false},
		{"refused while reading", opError("read", syscall.ECONNREFUSED), Path, false, false},
		{"timed out while dialing", opError("dial", syscall.ETIMEDOUT), Path, true, false},
		{"no path while dialing a proxy", opError("proxyconnect", opError("dial", syscall.EHOSTUNREACH)), Path, true, false},
		{"refused behind SOCKS", opError("socks connect", syscall.ECONNREFUSED), Conn, true, false},
		{"time limit of a dialer", &limitError{os.ErrDeadlineExceeded, true}, Path, true, false},
		{"deadline in a dialer", &limitError{os.ErrDeadlineExceeded, false}, Canceled, true, false},
		{"in an HTTP client", &url.Error{Op: "Post", Err: opError("dial", syscall.ECONNREFUSED)}, Conn, false, false},
		{"of this dialer in an HTTP client", &url.Error{Op: "Post", Err: &limitError{context.DeadlineExceeded, true}}, Path, false, false},
		{"two attempts", errors.Join(opError("dial", syscall.ECONNREFUSED), opError("dial", syscall.ETIMEDOUT)), Path, true, false},
		{"dial after a write", errors.Join(opError("write", syscall.EPIPE), opError("dial", syscall.ECONNREFUSED)), Conn, false, false},
		{"unknown beside dial", errors.Join(errors.New("half done"), opError("dial", syscall.ECONNREFUSED)), Conn, false, false},
		{"too many files", opError("dial", syscall.EMFILE), Local, true, false},

		{"name not found", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, Unknown, true, false},
		{"resolver slow", &net.DNSError{Err: "i/o timeout", IsTimeout: true}, Unknown, false, false},
		{"resolver unreachable", &net.DNSError{UnwrapErr: opError("read", syscall.EHOSTUNREACH)}, Unknown, false, false},
		{"lookup canceled", &net.DNSError{UnwrapErr: context.Canceled}, Canceled, false, false},
		{"lookup without descriptors", &net.DNSError{UnwrapErr: opError("dial", syscall.EMFILE)}, Local, false, false},

		{"no port", &net.OpError{Op: "dial", Err: &net.AddrError{Err: "missing port in address", Addr: "a"}}, Unknown, true, true},
		{"wrong family now", &net.OpError{Op: "dial", Err: &net.AddrError{Err: "no suitable address found", Addr: "a"}}, Unknown, true, false},
		{"wrong family for ever", &net.OpError{Op: "dial", Err: &net.AddrError{Err: "no suitable address found", Addr: "::1"}}, Unknown, true, true},
		{"one address wrong, one silent", errors.Join(&net.AddrError{Err: "missing port in address"}, opError("dial", syscall.ETIMEDOUT)), Path, false, false},
		{"unknown network, wrapped", fmt.Errorf("%w: %w", errors.New("mine"), net.UnknownNetworkError("foo")), Unknown, false, true},

		{"bad certificate", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, Conn, true, true},
		{"no roots", &tls.CertificateVerificationError{Err: x509.SystemRootsError{}}, Local, true, false},
		{"roots out of reach", &tls.CertificateVerificationError{Err: x509.SystemRootsError{Err: syscall.EMFILE}}, Local, true, false},
		{"roots out of reach, bare", x509.SystemRootsError{Err: syscall.EMFILE}, Local, false, false},
		{"bad certificate in an HTTP client", &url.Error{Op: "Get", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, Conn, false, true},
		{"host name", x509.HostnameError{Certificate: &x509.Certificate{}}, Conn, false, true},
		{"record header", tls.RecordHeaderError{Msg: "first"}, Conn, false, false},
		{"record header of the first", tls.RecordHeaderError{Msg: "first", Conn: &net.TCPConn{}}, Conn, true, true},
		{"alert by QUIC", tls.AlertError(40), Conn, false, false},
		{"alert: internal error", &net.OpError{Op: "remote error", Err: tls.AlertError(80)}, Conn, false, false},
		{"alert: unknown CA", &net.OpError{Op: "remote error", Err: tls.AlertError(48)}, Conn, false, true},
		{"alert sent", &net.OpError{Op: "local error", Err: tls.AlertError(20)}, Conn, false, false},

		{"HTTP idle close", errors.New("http: server closed idle connection"), Conn, false, false},
		{"HTTP/2 ping lost", fmt.Errorf("get: %w", hangup), Path, false, false},
		{"HTTP/2 not processed", errors.New("http2: Transport received Server's graceful shutdown GOAWAY"), Conn, true, false},
		{"HTTP/2 unusable", errors.New("http2: client conn not usable"), Conn, true, false},
		{"HTTP/2 not processed, after a redirection maybe", &url.Error{Op: "Post", Err: errors.New("http2: client conn not usable")}, Conn, false, false},
		{"HTTP/2 not established", errors.New("http2: client conn could not be established"), Conn, true, false},
		{"HTTP/2 closed here", errors.New("http2: client conn is closed"), Conn, false, false},
		{"HTTP/2 GOAWAY", errors.New("http2: Transport received GOAWAY from server ErrCode:PROTOCOL_ERROR"), Conn, false, false},
		{"HTTP/2 closed", errors.New("http2: client connection force closed via ClientConn.Close"), Conn, false, false},

		{"Redis replica", errors.New("READONLY You can't write against a read only replica."), Role, false, false},
		{"Redis without master", errors.New("MASTERDOWN Link with MASTER is down"), Role, false, false},
		{"Redis demoted", errors.New("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"), Role, false, false},
		{"Redis unblocked by a client", errors.New("UNBLOCKED client unblocked via CLIENT UNBLOCK"), Unknown, false, false},
		{"Redis loading", errors.New("LOADING Redis is loading the dataset in memory"), Unknown, false, false},
		{"not Redis", errors.New("READONLYISH"), Unknown, false, false},
		{"PostgreSQL replica", fmt.Errorf("insert: %w", sqlError("25006")), Role, false, false},
		{"PostgreSQL shutdown", sqlError("57P01"), Conn, false, false},
		{"PostgreSQL connection", sqlError("08006"), Conn, false, false},
		{"PostgreSQL duplicate key", sqlError("23505"), Unknown, false, false},
		{"MySQL read-only", errors.New("Error 1290 (HY000): The MySQL server is running with the --read-only option so it cannot execute this statement"), Role, false, false},
		{"MySQL super", errors.New("Error 1290: The MySQL server is running with the --super-read-only option so it cannot execute this statement"), Role, false, false},
		{"MySQL another option", errors.New("Error 1290 (HY000): The MySQL server is running with the --secure-file-priv option so it cannot execute this statement"), Unknown, false, false},
		{"MySQL transaction", errors.New("Error 1792 (25006): Cannot execute statement in a READ ONLY transaction."), Role, false, false},
		{"MySQL shutdown", errors.New("Error 1053 (08S01): Server shutdown in progress"), Conn, false, false},
		{"MySQL duplicate key", errors.New("Error 1062 (23000): Duplicate entry"), Unknown, false, false},

		{"a driver's word", fmt.Errorf("x: %w", safeError(true)), Unknown, true, false},
		{"a driver's other word", fmt.Errorf("x: %w", safeError(false)), Unknown, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.class, Classify(test.err), "Classify")
			assert.Equal(t, test.safe, SafeToRetry(test.err), "SafeToRetry")
			assert.Equal(t, test.never, Permanent(test.err), "Permanent")
		})
	}
}

func TestEveryClassHasAName(t *testing.T) {
	var names []string
	for c := Unknown; c <= Canceled+1; c++ {
		names = append(names, c.String())
	}
	assert.Equal(t, []string{"unknown", "conn", "path", "role", "local", "canceled", "Class(6)"}, names)
}

func TestHugeErrorTreesEnd(t *testing.T) {
	var err error = io.EOF
	for range 20 {
		err = errors.Join(err, err)
	}
	assert.Equal(t, Conn, Classify(err))
	assert.False(t, SafeToRetry(err))
	assert.False(t, Permanent(err))
	assert.True(t, Permanent(fmt.Errorf("dial: %w", ErrGuardClosed)))
}

func TestRealDialErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := ln.Addr().String()
	require.NoError(t, ln.Close())
	canceled, cancel := context.WithCancel(t.Context())
	cancel()

	for _, test := range []struct {
		name, network, addr string
		ctx                 context.Context
		limit               time.Duration
		class               Class
		never               bool
	}{
		{"nobody listens", "tcp", gone, t.Context(), 0, Conn, false},
		{"canceled", "tcp", gone, canceled, 0, Canceled, false},
		{"time limit", "tcp", gone, t.Context(), time.Nanosecond, Canceled, false},
		{"no port", "tcp", "127.0.0.1", t.Context(), 0, Unknown, true},
		{"port out of range", "tcp", "127.0.0.1:99999", t.Context(), 0, Unknown, true},
		{"unknown port", "tcp", "127.0.0.1:nosuchservice", t.Context(), 0, Unknown, true},
		{"unknown network", "tpc", gone, t.Context(), 0, Unknown, true},
		{"wrong family", "tcp6", gone, t.Context(), 0, Unknown, true},
		{"empty", "tcp", "", t.Context(), 0, Unknown, true},
		{"no such socket", "unix", t.TempDir() + "/s", t.Context(), 0, Conn, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := net.Dialer{Timeout: test.limit}
			c, err := d.DialContext(test.ctx, test.network, test.addr)
			if !assert.Error(t, err) {
				c.Close()
				return
			}
			assert.Equal(t, test.class, Classify(err), "%v", err)
			assert.True(t, SafeToRetry(err), "%v", err)
			assert.Equal(t, test.never, Permanent(err), "%v", err)
		})
	}
}

func TestRealReadAndWriteErrors(t *testing.T) {
	one := make([]byte, 1)
	for _, test := range []struct {
		name  string
		fail  func(c, peer *net.TCPConn) error
		class Class
	}{
		{"FIN", func(c, peer *net.TCPConn) error {
			peer.Close()
			_, err := c.Read(one)
			return err
		}, Conn},
		{"RST", func(c, peer *net.TCPConn) error {
			reset(t, peer)
			_, err := c.Read(one)
			return err
		}, Conn},
		{"write to nobody", func(c, peer *net.TCPConn) (err error) {
			reset(t, peer)
			for err == nil {
				_, err = c.Write(one)
			}
			_, err = c.Write(one)
			return err
		}, Conn},
		{"deadline", func(c, peer *net.TCPConn) error {
			c.SetReadDeadline(time.Unix(1, 0))
			_, err := c.Read(one)
			return err
		}, Canceled},
		{"closed here", func(c, peer *net.TCPConn) error {
			c.Close()
			_, err := c.Read(one)
			return err
		}, Conn},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, peer := pair(t)
			err := test.fail(c, peer)
			require.Error(t, err)
			assert.Equal(t, test.class, Classify(err), "%v", err)
			assert.False(t, SafeToRetry(err), "%v", err)
			assert.False(t, Permanent(err), "%v", err)
		})
	}
}

func TestRealHTTPTimeoutIsCanceled(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	for name, client := range map[string]http.Client{
		"client":  {Timeout: 10 * time.Millisecond, Transport: &http.Transport{}},
		"headers": {Transport: &http.Transport{ResponseHeaderTimeout: 10 * time.Millisecond}},
		"TLS":     {Transport: &http.Transport{TLSHandshakeTimeout: 10 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			defer client.CloseIdleConnections()
			scheme := "http://"
			if name == "TLS" {
				scheme = "https://"
			}
			_, err := client.Get(scheme + ln.Addr().String())
			require.Error(t, err)
			assert.Equal(t, Canceled, Classify(err), "%v", err)
		})
	}
}
