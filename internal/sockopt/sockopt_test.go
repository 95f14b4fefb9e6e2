package sockopt

import (
	"crypto/tls"
	"errors"
	"net"
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

// pair returns two ends of a real connection.
func pair(t *testing.T, network, address string) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("no %s here: %v", network, err)
	}
	defer ln.Close()
	client, err = net.Dial(network, ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// wrapped is a connection inside a user's own wrapper.
type wrapped struct {
	net.Conn
	inner net.Conn
}

func (w wrapped) NetConn() net.Conn { return w.inner }

// opaque hides the connection in it.
type opaque struct{ net.Conn }

// loop is its own inside.
type loop struct{ net.Conn }

func (l *loop) NetConn() net.Conn { return l }

func TestUnwrapFindsTheSocketBelowEveryLayer(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, tt := range []struct {
		name    string
		conn    net.Conn
		inner   net.Conn
		layered bool
	}{
		{"bare", c, c, false},
		{"tls", tls.Client(c, &tls.Config{}), c, true},
		{"wrapper over tls", wrapped{inner: tls.Client(c, &tls.Config{})}, c, true},
		{"a wrapper that reveals nothing", opaque{c}, opaque{c}, true},
		{"a wrapper around nothing", wrapped{Conn: c}, wrapped{Conn: c}, true},
		{"pipe", pipe, pipe, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inner, layered := Unwrap(tt.conn)
			assert.Equal(t, tt.inner, inner)
			assert.Equal(t, tt.layered, layered)
		})
	}
}

func TestUnwrapEndsOnAConnectionThatContainsItself(t *testing.T) {
	l := &loop{}
	inner, layered := Unwrap(l)
	assert.Same(t, l, inner)
	assert.True(t, layered)
}

func TestControlReturnsBothKindsOfErrors(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	mine := errors.New("mine")
	assert.Equal(t, mine, Control(c, func(uintptr) error { return mine }))
	assert.Equal(t, mine, Control(tls.Client(c, &tls.Config{}), func(uintptr) error { return mine }))

	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	err := Control(pipe, func(uintptr) error { t.Error("called"); return nil })
	assert.ErrorIs(t, err, errors.ErrUnsupported)

	c.Close()
	err = Control(c, func(uintptr) error { t.Error("called"); return nil })
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestControlSaysWhatIsNoConnectionAtAll(t *testing.T) {
	for _, tt := range []struct {
		name string
		conn net.Conn
		want string
	}{
		{"nothing", nil, "no connection"},
		{"nil TCP", (*net.TCPConn)(nil), "a nil *net.TCPConn is no connection"},
		{"zero TCP", new(net.TCPConn), "this *net.TCPConn was never connected"},
		{"nil TLS", (*tls.Conn)(nil), "a nil *tls.Conn is no connection"},
		{"TLS over nothing", tls.Client(nil, &tls.Config{}), "*tls.Conn has no file descriptor"},
		{"TLS over a nil TCP", tls.Client((*net.TCPConn)(nil), &tls.Config{}), "*tls.Conn has no file descriptor"},
		{"a wrapper around nothing", struct{ net.Conn }{}, "has no file descriptor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Control(tt.conn, func(uintptr) error { t.Error("called"); return nil })
			assert.ErrorIs(t, err, errors.ErrUnsupported)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestUnitsRoundUpAndNeverTruncateToNothing(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		unit time.Duration
		want int
		ok   bool
	}{
		{0, time.Second, 0, true},
		{1, time.Second, 1, true},
		{time.Second, time.Second, 1, true},
		{time.Second + 1, time.Second, 2, true},
		{1, time.Millisecond, 1, true},
		{1500 * time.Microsecond, time.Millisecond, 2, true},
		{-1, time.Millisecond, 0, false},
		{(1<<31 - 1) * time.Millisecond, time.Millisecond, 1<<31 - 1, true},
		{(1<<31-1)*time.Millisecond + 1, time.Millisecond, 0, false},
	} {
		n, ok := units(tt.d, tt.unit)
		assert.Equal(t, tt.want, n, "%v in %v", tt.d, tt.unit)
		assert.Equal(t, tt.ok, ok, "%v in %v", tt.d, tt.unit)
	}
}

func TestWrappedErrorsKeepTheErrno(t *testing.T) {
	err := wrap("setsockopt", "TCP_KEEPIDLE", syscall.EINVAL, false)
	assert.ErrorIs(t, err, syscall.EINVAL)
	assert.NotErrorIs(t, err, errors.ErrUnsupported)
	assert.Contains(t, err.Error(), "TCP_KEEPIDLE: setsockopt: ")

	err = wrap("setsockopt", "TCP_USER_TIMEOUT", syscall.EINVAL, true)
	assert.ErrorIs(t, err, syscall.EINVAL)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
	assert.NoError(t, wrap("setsockopt", "TCP_KEEPIDLE", nil, true))
}

func TestThePeerWasHeardWhenAnythingCame(t *testing.T) {
	assert.Equal(t, time.Second, (&Info{LastDataRecv: time.Second, LastAckRecv: 2 * time.Second}).SincePeerHeard())
	assert.Equal(t, time.Second, (&Info{LastDataRecv: 2 * time.Second, LastAckRecv: time.Second}).SincePeerHeard())
}

func TestStatesHaveNames(t *testing.T) {
	assert.Equal(t, "ESTABLISHED", StateEstablished.String())
	assert.Equal(t, "CLOSED", State(7).String())
	assert.Equal(t, "CLOSE-WAIT", State(8).String())
	assert.Equal(t, "state 0", State(0).String())
	assert.Equal(t, "state 99", State(99).String())
}

func TestHasChecksTheLengthThatTheKernelReturned(t *testing.T) {
	assert.False(t, (&Info{}).Has(FieldBasic))
	old := &Info{Len: 104} // Linux 2.6
	assert.True(t, old.Has(FieldBasic))
	assert.False(t, old.Has(FieldBytes))
	half := &Info{Len: 140}
	assert.True(t, half.Has(FieldBytes))
	assert.False(t, half.Has(FieldSegs))
	assert.False(t, (&Info{Len: 1000}).Has(FieldSndWnd+1))
}
