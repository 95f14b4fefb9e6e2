package dial

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestMain(m *testing.M) {
	netlab.Parallel()
	goleak.VerifyTestMain(m)
}

// accept has every connection that ln accepts handled and closed, until ln is.
func accept(ln net.Listener, handle func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}

func echoes(c net.Conn) { _, _ = io.Copy(c, c) }

// echoServer echoes on every connection that ln accepts, until the test ends.
func echoServer(t testing.TB, ln net.Listener) string {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		accept(ln, echoes)
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	return ln
}

// server is a TLS server whose certificate is for 127.0.0.1 and example.com.
type server struct {
	addr   string
	cert   tls.Certificate
	client *tls.Config
}

func tlsServer(t testing.TB) server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		DNSNames:              []string{"example.com"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	ln := listen(t, "tcp4", "127.0.0.1:0")
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	addr := echoServer(t, tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}))
	return server{addr: addr, cert: pair, client: &tls.Config{RootCAs: pool}}
}

// talk says something and hears it back.
func talk(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	var b [5]byte
	_, err = io.ReadFull(c, b[:])
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:]))
}

func TestTheZeroConfigDials(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	c, err := newDialer(t, Config{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	talk(t, c)
}

func TestConnectionsAreBare(t *testing.T) {
	d := newDialer(t, Config{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	for _, network := range []string{"tcp", "tcp4"} {
		c, err := d.DialContext(t.Context(), network, echoServer(t, listen(t, "tcp4", "127.0.0.1:0")))
		require.NoError(t, err)
		defer c.Close()
		assert.IsType(t, (*net.TCPConn)(nil), c)
		talk(t, c)
	}
	for _, network := range []string{"unix", "unixpacket"} {
		path := filepath.Join(t.TempDir(), "s")
		c, err := d.DialContext(t.Context(), network, echoServer(t, listen(t, network, path)))
		require.NoError(t, err, "LocalAddr is not for Unix sockets")
		defer c.Close()
		assert.IsType(t, (*net.UnixConn)(nil), c)
		talk(t, c)
	}
}

func TestTLSConnectionsAreBareAndShakenHands(t *testing.T) {
	srv := tlsServer(t)
	cfg := srv.client.Clone()
	cfg.NextProtos = []string{"h2"}
	c, err := newDialer(t, Config{TLSConfig: cfg}).DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	require.IsType(t, (*tls.Conn)(nil), c)
	state := c.(*tls.Conn).ConnectionState()
	assert.True(t, state.HandshakeComplete)
	assert.Equal(t, "h2", state.NegotiatedProtocol)
	assert.IsType(t, (*net.TCPConn)(nil), c.(*tls.Conn).NetConn())
	talk(t, c)
}

func TestServerNameIsTheDialledHostUnlessSet(t *testing.T) {
	srv := tlsServer(t)
	named := srv.client.Clone()
	named.ServerName = "example.com"
	c, err := newDialer(t, Config{TLSConfig: named}).DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, "example.com", c.(*tls.Conn).ConnectionState().ServerName)

	wrong := srv.client.Clone()
	wrong.ServerName = "example.org"
	_, err = newDialer(t, Config{TLSConfig: wrong}).DialTLSContext(t.Context(), "tcp", srv.addr)
	var hostname x509.HostnameError
	require.ErrorAs(t, err, &hostname)
	assert.ErrorContains(t, err, "TLSConfig.ServerName")
}

func TestTLSErrorsAreOfTheHandshakeAndKeepTheirCause(t *testing.T) {
	srv := tlsServer(t)
	_, err := newDialer(t, Config{}).DialTLSContext(t.Context(), "tcp", srv.addr)
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
	phase(t, err, PhaseHandshake)
	assert.ErrorContains(t, err, "RootCAs")

	// An echo server says ClientHello to a ClientHello.
	_, err = newDialer(t, Config{}).DialTLSContext(t.Context(), "tcp", echoServer(t, listen(t, "tcp", "127.0.0.1:0")))
	phase(t, err, PhaseHandshake)
}

func TestAHandshakeThatHangsEndsWithTheTimeout(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	d := newDialer(t, Config{Timeout: 400 * time.Millisecond})
	begin := time.Now()
	_, err := d.DialTLSContext(t.Context(), "tcp", ln.Addr().String())
	assert.Less(t, time.Since(begin), 5*time.Second)
	phase(t, err, PhaseHandshake)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "no answer within Config.Timeout, 400ms")
	assert.True(t, err.(*Error).Timeout())
	assert.True(t, err.(*Error).PathTimeout())
}

func TestTheHandshakeHasOnlyWhatIsLeftOfTheTimeout(t *testing.T) {
	srv := tlsServer(t)
	const timeout = 400 * time.Millisecond
	d := newDialer(t, Config{Timeout: timeout, TLSConfig: srv.client, Trace: &Trace{
		// Connecting takes all of it.
		ConnectDone: func(context.Context, ConnectDone) { <-time.After(timeout) },
	}})
	_, err := d.DialTLSContext(t.Context(), "tcp", srv.addr)
	phase(t, err, PhaseHandshake)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAFailedHandshakeClosesTheConnection(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	srv := tlsServer(t)
	accepted := make(chan error, 1)
	go func() { accepted <- drainAfterHandshake(ln, srv.cert) }()
	var e *Error
	_, err := newDialer(t, Config{}).DialTLSContext(t.Context(), "tcp", ln.Addr().String())
	require.ErrorAs(t, err, &e)
	require.Equal(t, PhaseHandshake, e.Phase, "%v", err)
	assert.NotErrorIs(t, <-accepted, os.ErrDeadlineExceeded, "the connection is still open")
}

// drainAfterHandshake accepts a connection whose handshake fails, and returns
// how reading from it ends.
func drainAfterHandshake(ln net.Listener, cert tls.Certificate) error {
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	_, err = io.Copy(io.Discard, c)
	return err
}

func TestTLSWithoutAHostNeedsAName(t *testing.T) {
	noIO := Config{Control: func(context.Context, string, string, syscall.RawConn) error {
		t.Error("made a socket")
		return nil
	}}
	_, err := newDialer(t, noIO).DialTLSContext(t.Context(), "tcp", ":443")
	phase(t, err, PhaseAddress)
	assert.ErrorContains(t, err, "set Config.TLSConfig.ServerName")

	srv := tlsServer(t)
	_, port, err := net.SplitHostPort(srv.addr)
	require.NoError(t, err)
	named := srv.client.Clone()
	named.ServerName = "example.com"
	for _, cfg := range []*tls.Config{named, {InsecureSkipVerify: true}} {
		c, err := newDialer(t, Config{TLSConfig: cfg}).DialTLSContext(t.Context(), "tcp4", ":"+port)
		require.NoError(t, err)
		c.Close()
	}
}

func TestTLSOverAUnixSocketNeedsAName(t *testing.T) {
	_, err := newDialer(t, Config{}).DialTLSContext(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	phase(t, err, PhaseAddress)
	assert.ErrorContains(t, err, "set Config.TLSConfig.ServerName")

	_, err = newDialer(t, Config{TLSConfig: &tls.Config{InsecureSkipVerify: true}}).DialTLSContext(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	phase(t, err, PhaseConnect)
}

// phase requires that err is an *Error of phase p.
func phase(t *testing.T, err error, p Phase) {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, p, e.Phase, "%v", err)
}

func TestAddressesThatMakeNoSenseAreRefusedBeforeAnyIO(t *testing.T) {
	for _, tt := range []struct{ network, address, want string }{
		{"", "localhost:1", "use tcp"},
		{"udp", "localhost:1", "use tcp, tcp4, tcp6 or unix"},
		{"TCP", "localhost:1", "use tcp"},
		{"tcp5", "localhost:1", "use tcp"},
		{"unixgram", "/x", "use tcp"},
		{"tcp", "", "give host:port"},
		{"tcp", "redis", "give host:port, for instance localhost:6379"},
		{"tcp", "redis:", "give host:port, for instance redis:6379"},
		{"tcp", "::1", "an IPv6 address in brackets"},
		{"tcp", "2001:db8::1:6379", "an IPv6 address in brackets"},
		{"tcp", "[::1]", "give host:port"},
		{"tcp", "redis://redis:6379", "not a URL"},
		{"tcp", "redis:0", "a port is 1 to 65535"},
		{"tcp", "redis:65536", "a port is 1 to 65535"},
		{"tcp", "redis:99999999999999999999", "a port is 1 to 65535"},
		{"tcp", "redis:-1", "a port is 1 to 65535"},
		{"unix", "", "path"},
	} {
		t.Run(tt.network+" "+tt.address, func(t *testing.T) {
			noIO := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				t.Error("looked it up")
				return nil, errors.New("no")
			}}
			var r record
			d := newDialer(t, Config{Resolver: noIO, Trace: r.trace()})
			for _, dial := range []func(context.Context, string, string) (net.Conn, error){d.DialContext, d.DialTLSContext} {
				r.calls = nil
				c, err := dial(t.Context(), tt.network, tt.address)
				require.Error(t, err)
				assert.True(t, c == nil, "no typed nil")
				phase(t, err, PhaseAddress)
				assert.ErrorContains(t, err, tt.want)
				var addrErr *net.AddrError
				var netErr net.UnknownNetworkError
				assert.True(t, errors.As(err, &addrErr) || errors.As(err, &netErr), "%T", errors.Unwrap(err))
				assert.Equal(t, []string{"DialStart", "DialDone"}, r.calls)
			}
		})
	}
}

func TestPortsMayBeNamesOrHaveLeadingZeros(t *testing.T) {
	assert.NoError(t, checkAddress("tcp", "localhost:http"))
	assert.NoError(t, checkAddress("tcp", "localhost:00080"))
	assert.NoError(t, checkAddress("tcp", "localhost:0000000080"))
	assert.NoError(t, checkAddress("tcp", ":6379"))
	assert.NoError(t, checkAddress("tcp6", "[fe80::1%eth0]:6379"))
}

func TestTheCallersContextIsSeenInTheErrorWithItsCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	mine := errors.New("shutting down")
	cancel(mine)
	_, err := newDialer(t, Config{}).DialContext(ctx, "tcp", "127.0.0.1:1")
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, mine)
	assert.NotContains(t, err.Error(), "Config.Timeout")
}

// late is a context whose deadline is over before it says so.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

func TestASocketsDeadlineThatIsFasterThanTheContextIsTheContexts(t *testing.T) {
	d := newDialer(t, Config{})
	cause := &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	err := d.failed(late{t.Context()}, PhaseConnect, "tcp", "redis:6379", cause)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Empty(t, err.Advice, "it was not Config.Timeout")
	assert.False(t, err.PathTimeout())

	err = d.failed(t.Context(), PhaseConnect, "tcp", "redis:6379", cause)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.Equal(t, "no answer within Config.Timeout, 10s", err.Advice)
	assert.True(t, err.Timeout())
	assert.True(t, err.PathTimeout())
}

func TestLookupErrorsAreOfTheLookup(t *testing.T) {
	d := newDialer(t, Config{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no resolver today")
	}}})
	_, err := d.DialContext(t.Context(), "tcp", "redis.example:6379")
	phase(t, err, PhaseLookup)
	var dns *net.DNSError
	assert.ErrorAs(t, err, &dns)
}

func TestALookupThatHangsSaysNothingAboutThePeer(t *testing.T) {
	d := newDialer(t, Config{Timeout: 400 * time.Millisecond, Resolver: &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}})
	_, err := d.DialContext(t.Context(), "tcp", "redis.example.:6379")
	phase(t, err, PhaseLookup)
	assert.False(t, err.(*Error).PathTimeout())
}

func TestControlRunsAfterOurOptionsAndItsErrorsSurface(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	mine := errors.New("mine")
	d := newDialer(t, Config{Control: func(context.Context, string, string, syscall.RawConn) error { return mine }})
	_, err := d.DialContext(t.Context(), "tcp", addr)
	phase(t, err, PhaseOptions)
	assert.ErrorIs(t, err, mine)
	assert.ErrorContains(t, err, "Config.Control")

	d = newDialer(t, Config{Control: func(context.Context, string, string, syscall.RawConn) error { return context.DeadlineExceeded }})
	_, err = d.DialContext(t.Context(), "tcp", addr)
	assert.False(t, err.(*Error).PathTimeout(), "nobody was asked anything")

	var got []string
	d = newDialer(t, Config{Control: func(ctx context.Context, network, address string, rc syscall.RawConn) error {
		got = append(got, network, address)
		return nil
	}})
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"tcp4", addr}, got)
}

func TestPhasesHaveNames(t *testing.T) {
	for p, want := range map[Phase]string{PhaseAddress: "address", PhaseLookup: "lookup", PhaseOptions: "options",
		PhaseConnect: "connect", PhaseHandshake: "handshake", 0: "phase 0"} {
		assert.Equal(t, want, p.String())
	}
}
