package dial

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
)

func TestInspectSaysWhyItCannot(t *testing.T) {
	for _, c := range []net.Conn{
		nil, (*net.TCPConn)(nil), new(net.TCPConn), (*net.UnixConn)(nil),
		(*tls.Conn)(nil), tls.Client(nil, &tls.Config{}), struct{ net.Conn }{},
	} {
		_, err := Inspect(c)
		assert.ErrorIs(t, err, errors.ErrUnsupported, "%T", c)
		assert.ErrorContains(t, err, "dial: inspect: ", "%T", c)
	}

	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	_, err := Inspect(a)
	assert.ErrorIs(t, err, errors.ErrUnsupported)

	udp, err := net.Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	defer udp.Close()
	_, err = Inspect(udp)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
	assert.ErrorContains(t, err, `"udp"`)

	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	c.Close()
	_, err = Inspect(c)
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestASocketDescribesItself(t *testing.T) {
	tcp := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	s := Socket{
		Local: tcp("10.0.0.2", 40000), Remote: tcp("10.0.1.2", 6379), Layered: true,
		DetectIdle: 10 * time.Second, DetectBusy: 10 * time.Second,
		KeepAlive: keepAlive(4*time.Second, 2*time.Second, 3), UserTimeout: 10 * time.Second,
		NoDelay: true, FastUnreachable: true, ReadBuffer: 1, WriteBuffer: 2,
		State: "ESTABLISHED", LastHeard: 4 * time.Millisecond, RTT: time.Millisecond,
	}
	assert.Equal(t, "tcp 10.0.0.2:40000 to tcp 10.0.1.2:6379 (layered): silent death noticed after 10s idle, 10s busy; "+
		"keep-alive 4s:2s:3, user timeout 10s, fast unreachable, no-delay, buffers 1/2; "+
		"ESTABLISHED, heard 4ms ago, round trip 1ms", s.String())

	s = Socket{DetectIdle: Never, DetectBusy: KernelLimit, Unsupported: []string{"user timeout", "TCP info"}}
	assert.Equal(t, "? to ?: silent death noticed after never idle, 15m24.6s busy; "+
		"keep-alive off, user timeout none, buffers 0/0; unsupported: user timeout, TCP info", s.String())

	s = Socket{State: "CLOSED", Guard: health.View{State: health.Dead, Unanswered: 5,
		Cause: &health.SilenceError{Remote: tcp("10.0.1.2", 6379), Silent: 3 * time.Second, Unanswered: 5, Fresh: true}}}
	assert.Regexp(t, `^\? to \?: dead \(CLOSED\); guard: dead, 5 unanswered, health: 10.0.1.2:6379 was not heard for 3s`, s.String())
	s = Socket{RTOMax: 1500 * time.Millisecond, DetectIdle: Never, DetectBusy: time.Second,
		Guard: health.View{State: health.SlowReader, DetectWithin: time.Second, FreshFor: 90 * time.Second}}
	assert.Contains(t, s.String(), "user timeout none, RTO max 1.5s, buffers")
	assert.Contains(t, s.String(), "; guard: slow reader, fresh for 1m30s")
	s.Guard.FreshFor = -1
	assert.Contains(t, s.String(), "; guard: slow reader, not kept fresh")
}
