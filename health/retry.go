package health

import (
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
)

// SafeToRetry reports whether err proves that the peer has not acted, and will
// not act, on what was being done when it occurred, so that doing it again can't
// do it twice. Unknown means no. It does not say that trying again is wise: a
// canceled dial is safe to retry.
//
// These are proofs, and nothing else is:
//
//   - a dial that failed ([net.OpError] with an Op of connecting);
//   - a TLS handshake that this side broke off: the certificate didn't verify,
//     the first record wasn't TLS, Encrypted Client Hello was rejected;
//   - an HTTP/2 stream that the server refused (REFUSED_STREAM), or above the
//     last one that its GOAWAY admits, or that was never begun;
//   - a request of which an [net/http.ClientConn] has written nothing;
//   - an error with a method SafeToRetry() bool that says so, such as pgx's and
//     those of this module's dialer and pool.
//
// Of joined errors all must be proofs, because one may be about the work and
// the next about an attempt to connect again.
//
// A proof is about the attempt that it came from. It is none from somebody who
// repeats or redirects what he was asked to do, because he tells of the last
// attempt only: the order was placed, its confirmation was elsewhere, and nobody
// listened there. So nothing is a proof in a [url.Error], the error of an
// [net/http.Client]. What else repeats by itself can't be told by its errors:
// don't ask about those of an [net/http.Transport] if the request is idempotent
// in its eyes (a GET, an Idempotency-Key), nor about those of database/sql unless
// the driver returns [driver.ErrBadConn] only as it should. That error is no
// proof here: drivers have returned it for a connection that broke after the
// query was sent.
func SafeToRetry(err error) bool {
	s := search{left: maxErrors}
	return s.unsent(err)
}

func (s *search) unsent(err error) bool {
	if !s.enter(err) {
		return false
	}
	if e, ok := err.(interface{ SafeToRetry() bool }); ok {
		return e.SafeToRetry()
	}
	switch e := err.(type) {
	case *url.Error:
		return false // maybe of a redirection, after the work
	case *net.OpError:
		if isDial(e) {
			return true
		}
	case *net.DNSError:
		return false // whatever the resolver was doing
	case *tls.CertificateVerificationError, *tls.ECHRejectionError:
		return true
	case tls.RecordHeaderError:
		return e.Conn != nil // which is what crypto/tls does for a first record only
	}
	if unwrittenByHTTP(err) {
		return true
	}
	if isLeaf(err) {
		return unprocessedByHTTP2(err)
	}
	more, one := unwrap(err)
	if one != nil {
		return s.unsent(one)
	}
	for _, e := range more {
		if !s.unsent(e) {
			return false
		}
	}
	return true
}

// Permanent reports whether err, from opening a connection, will come again
// however often the opening is repeated, until somebody changes something: the
// certificate didn't verify, the peer refused ours, has no TLS version or
// protocol in common, or doesn't speak TLS, the address is malformed or has no
// port, the network or the port's name is unknown, the Guard that is to watch it
// is closed.
//
// A name that wasn't found is not permanent, nor is anything that Classify
// knows by another class. Where several attempts were made and joined, one that
// may succeed next time is enough to make the whole not permanent.
func Permanent(err error) bool {
	s := search{left: maxErrors}
	forever, passing := s.lasting(err, false)
	return forever && !passing
}

// lasting reports whether something in err's tree is permanent, and whether
// something is known not to be.
func (s *search) lasting(err error, dialing bool) (forever, passing bool) {
	if !s.enter(err) {
		return false, false
	}
	switch e := err.(type) {
	case *net.OpError:
		dialing = dialing || isDial(e)
		if e.Op == "remote error" && e.Err != nil {
			refused := isRefusal(textOf(e.Err))
			return refused, !refused
		}
	case *net.DNSError:
		unknownPort := e.Err == "unknown port"
		return unknownPort, !unknownPort
	case *net.AddrError:
		return isMalformed(e), false
	case net.UnknownNetworkError, net.InvalidAddrError, *net.ParseError, *tls.ECHRejectionError:
		return true, false
	case tls.RecordHeaderError:
		return e.Conn != nil, e.Conn == nil // the first record, or a later one
	}
	if err == ErrGuardClosed { // nor will it open again
		return true, false
	}
	if isCertificate(err) {
		v, _ := judgeTLS(err) // Local if the roots could not be read
		return v != saysLocal, v == saysLocal
	}
	if isLeaf(err) {
		if dialing && textOf(err) == "missing address" {
			return true, false
		}
		v, _ := judge(err, dialing)
		return false, v != saysNothing
	}
	more, one := unwrap(err)
	forever, passing = s.lasting(one, dialing)
	for _, e := range more {
		f, p := s.lasting(e, dialing)
		forever, passing = forever || f, passing || p
	}
	return forever, passing
}

// isMalformed tells an address that can't be right from one for which only the
// name's current addresses are of the wrong family.
func isMalformed(e *net.AddrError) bool {
	if e.Err != "no suitable address found" && e.Err != "no suitable address" {
		return true
	}
	_, err := netip.ParseAddr(e.Addr)
	return err == nil
}

// isRefusal reports whether text is that of an alert by which a TLS peer says
// that it will not talk with a client like us. The type of alerts received is
// not exported, but its texts are those of AlertError.
func isRefusal(text string) bool {
	for _, alert := range [...]tls.AlertError{
		40,                     // handshake_failure
		42, 43, 44, 45, 46, 48, // our certificate: bad, unsupported, revoked, expired, unknown, of an unknown CA
		49,     // access_denied
		70, 71, // protocol_version, insufficient_security
		112, // unrecognized_name
		116, // certificate_required
		120, // no_application_protocol
	} {
		if text == alert.Error() {
			return true
		}
	}
	return false
}
