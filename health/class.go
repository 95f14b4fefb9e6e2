package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"reflect"
	"strconv"
)

// Class says what an error means for the connection that it came from and for
// its siblings, the other connections to the same address.
type Class uint8

// The classes of errors.
const (
	// Unknown is an error that says nothing about any connection: an answer of
	// the peer, a failed name lookup, a bug of the caller's. Whether a
	// connection can be used after it depends on what is still unread.
	Unknown Class = iota

	// Conn is the death of one connection: reset, broken pipe, an end in the
	// middle, a TLS failure, a refused dial. Somebody answered, so the path to
	// the peer works.
	Conn

	// Path is silence, or a router that says the peer can't or mustn't be
	// reached. The siblings are suspects.
	Path

	// Role is a server that lives and answers, but is no longer the one that
	// was meant: a demoted primary. Connections to it are useless, healthy as
	// they look.
	Role

	// Local is a shortage or a prohibition on this machine: descriptors, ports,
	// memory, a firewall rule. Nobody out there is at fault, and other
	// connections are well.
	Local

	// Canceled is the caller's own doing: a context that ended, a deadline that
	// passed. A connection that was in the middle of something is unusable; it
	// says nothing about the peer.
	Canceled
)

// String returns the class's name in lower case.
func (c Class) String() string {
	switch c {
	case Unknown:
		return "unknown"
	case Conn:
		return "conn"
	case Path:
		return "path"
	case Role:
		return "role"
	case Local:
		return "local"
	case Canceled:
		return "canceled"
	}
	return "Class(" + strconv.Itoa(int(c)) + ")"
}

// Classify returns what err means for the connection that it came from. It looks
// through wrapped and joined errors; where several say something, evidence from
// the network goes first: Role, Path, Conn, Local, Canceled, Unknown. A nil
// error is Unknown.
//
// It reads the errno and never [net.Error]'s Timeout, because that is true of
// the kernel's ETIMEDOUT, which is Path, as it is of a deadline, which is
// Canceled. A few things are less than obvious:
//
//   - ECONNREFUSED is Path on an established connection, where it can only be a
//     router's word, and Conn on a dial, where it is the peer's kernel saying
//     that nobody listens. EACCES, EPROTO and ENOPROTOOPT, in which Unix systems
//     hand on a router's prohibition, are Path on an established connection. On
//     a dial EACCES is Local, though it may be a router's word there as well.
//   - ENOTCONN is Conn: it tells nothing about the peer. With Multipath TCP it
//     is all that remains of a death by silence.
//   - A dial that ran into a time limit of its own, such as
//     [net.Dialer.Timeout], is Canceled, because it can't be told from the
//     caller's. Whoever set the limit knows better, and can say so: an error with
//     a method PathTimeout() bool that returns true, as this module's dialer
//     makes, is Path. It means that the peer was silent for a time limit that
//     isn't the caller's.
//   - A failed name lookup is Unknown, whatever kept the resolver from
//     answering, unless it was canceled or failed for want of something Local.
//   - [net.ErrClosed], and what crypto/tls, net/http, database/sql and common
//     drivers say of a connection that was closed here, is Conn, but Canceled if
//     joined with a context's error.
//   - A certificate that doesn't verify and a TLS alert are Conn, see also
//     [Permanent].
//   - HTTP/2: a lost ping is Path, GOAWAY and connection errors are Conn. An
//     error of one stream is Unknown: the connection goes on.
//   - PostgreSQL (any error with a method SQLState() string): 25006 is Role;
//     08xxx, 25P03, 57P01, 57P02, 57P03 and 57P05, after which there is no
//     connection, are Conn. Writing in a transaction that the caller began as
//     read-only is 25006 as well and can't be told apart.
//   - MySQL (errors whose text begins "Error 1290 (HY000):"): 1792, 1836 and,
//     if it's about a read-only option, 1290 are Role; 1053 and 4031 are Conn.
//   - Redis (errors whose text begins with the reply's code): READONLY,
//     MASTERDOWN and UNBLOCKED, which a demotion sends to blocked clients, are
//     Role. LOADING is Unknown: the connection is good, the server isn't ready.
func Classify(err error) Class {
	s := search{left: maxErrors}
	return s.verdict(err, false).class()
}

// maxErrors bounds how many errors of one tree are looked at.
const maxErrors = 1000

// verdict orders what the errors of a tree say: the greatest wins.
type verdict uint8

const (
	saysNothing verdict = iota
	saysClosed          // by this program, maybe as a consequence of cancelation
	saysCanceled
	saysLocal
	saysConn
	saysPath
	saysRole
)

func (v verdict) class() Class {
	return [...]Class{Unknown, Conn, Canceled, Local, Conn, Path, Role}[v]
}

// search walks the tree of an error.
type search struct{ left int }

// enter reports whether err is worth a look: not nil, not a typed nil whose
// methods would panic, and within the bound.
func (s *search) enter(err error) bool {
	if err == nil || s.left == 0 {
		return false
	}
	s.left--
	v := reflect.ValueOf(err)
	return v.Kind() != reflect.Pointer || !v.IsNil()
}

// verdict returns what err and the errors below it say. Dialing is whether err
// comes from an attempt to connect.
func (s *search) verdict(err error, dialing bool) verdict {
	if !s.enter(err) {
		return saysNothing
	}
	switch e := err.(type) {
	case *net.OpError:
		dialing = dialing || isDial(e)
	case *net.DNSError:
		// What happened between us and the resolver is not about the peer.
		if v := s.below(err, false); v == saysCanceled || v == saysLocal {
			return v
		}
		return saysNothing
	case *fs.PathError:
		if errors.Is(e.Err, fs.ErrPermission) {
			return saysLocal // EACCES of a file
		}
	}
	v, last := judge(err, dialing)
	if last {
		return v
	}
	return max(v, s.below(err, dialing))
}

// below returns what the errors that err wraps say.
func (s *search) below(err error, dialing bool) verdict {
	more, one := unwrap(err)
	v := s.verdict(one, dialing)
	for _, e := range more {
		v = max(v, s.verdict(e, dialing))
	}
	return v
}

// textOf is err.Error() for errors of any origin: fmt catches those that panic,
// as a *net.OpError about nothing does.
func textOf(err error) string { return fmt.Sprint(err) }

// unwrap returns what err wraps: one error or several.
func unwrap(err error) (more []error, one error) {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return nil, e.Unwrap()
	case interface{ Unwrap() []error }:
		return e.Unwrap(), nil
	}
	return nil, nil
}

// isLeaf reports whether err wraps nothing.
func isLeaf(err error) bool {
	more, one := unwrap(err)
	return one == nil && len(more) == 0
}

// judge returns what one error says, without what it wraps, and whether nothing
// below it matters.
func judge(err error, dialing bool) (v verdict, last bool) {
	if e, ok := err.(interface{ PathTimeout() bool }); ok && e.PathTimeout() {
		return saysPath, true
	}
	if v, ok := judgeSystem(err, dialing); ok {
		return v, true
	}
	switch {
	case is(err, context.Canceled), is(err, context.DeadlineExceeded), is(err, os.ErrDeadlineExceeded):
		return saysCanceled, true
	case err == net.ErrClosed, err == os.ErrClosed, err == io.ErrClosedPipe:
		return saysClosed, true
	case err == io.EOF, err == io.ErrUnexpectedEOF, err == driver.ErrBadConn, err == ErrUnread, err == errEnded:
		return saysConn, true
	}
	if v, ok := judgeTLS(err); ok {
		return v, true
	}
	if v, ok := judgeHTTP2(err); ok {
		return v, true
	}
	if v, ok := judgeRole(err); ok {
		return v, true
	}
	if !isLeaf(err) {
		return saysNothing, false
	}
	// The errno, whose Timeout proves nothing, has been dealt with.
	if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
		return saysCanceled, true
	}
	return judgeText(textOf(err)), true
}

// judgeTLS knows the errors of crypto/tls and crypto/x509.
func judgeTLS(err error) (verdict, bool) {
	switch e := err.(type) {
	case *net.OpError:
		if e.Op == "remote error" || e.Op == "local error" {
			return saysConn, true
		}
	case x509.SystemRootsError:
		return saysLocal, true
	case *tls.CertificateVerificationError:
		if _, ok := errors.AsType[x509.SystemRootsError](e.Err); ok {
			return saysLocal, true
		}
		return saysConn, true
	case tls.AlertError, tls.RecordHeaderError, *tls.ECHRejectionError:
		return saysConn, true
	}
	return saysConn, isCertificate(err)
}

func isCertificate(err error) bool {
	switch err.(type) {
	case *tls.CertificateVerificationError, x509.CertificateInvalidError, x509.HostnameError,
		x509.UnknownAuthorityError, x509.ConstraintViolationError, x509.UnhandledCriticalExtension,
		x509.InsecureAlgorithmError:
		return true
	}
	return false
}

// isDial reports whether e comes from connecting: nothing of the caller's has
// been sent then.
func isDial(e *net.OpError) bool {
	switch e.Op {
	case "dial", "proxyconnect", "socks connect": // net; net/http; x/net/proxy
		return true
	}
	return false
}

// is is errors.Is for one error without those that it wraps.
func is(err, target error) bool {
	if err == target {
		return true
	}
	e, ok := err.(interface{ Is(error) bool })
	return ok && e.Is(target)
}
