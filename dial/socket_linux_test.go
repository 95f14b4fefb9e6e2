package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

func inspect(t *testing.T, c net.Conn) Socket {
	t.Helper()
	s, err := Inspect(c)
	require.NoError(t, err)
	assert.Empty(t, slices.DeleteFunc(s.Unsupported, func(o string) bool { return o == "RTO max" })) // before Linux 6.15
	return s
}

// families runs f with an echo server of each address family.
func families(t *testing.T, f func(t *testing.T, network, addr string)) {
	t.Run("family=4", func(t *testing.T) { f(t, "tcp4", echoServer(t, listen(t, "tcp4", "127.0.0.1:0"))) })
	t.Run("family=6", func(t *testing.T) { f(t, "tcp6", echoServer(t, listen(t, "tcp6", "[::1]:0"))) })
}

func TestOptionsAreInForceAfterTheDial(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		ka   net.KeepAliveConfig
		ut   time.Duration
		idle time.Duration
		busy time.Duration
	}{
		{"zero", Config{}, keepAlive(4*time.Second, 2*time.Second, 3), 10 * time.Second, 10 * time.Second, 10 * time.Second},
		{"2.5s", Config{DetectWithin: 2500 * time.Millisecond}, keepAlive(time.Second, time.Second, 1), 2 * time.Second, 2 * time.Second, 2 * time.Second},
		{"slow readers, unguarded", Config{DetectWithin: 5 * time.Second, SlowReaders: true, Unguarded: true}, keepAlive(2*time.Second, time.Second, 3), 0, 5 * time.Second, KernelLimit},
		{"the longest", Config{DetectWithin: maxDetectWithin}, keepAlive(32767*time.Second, 16382*time.Second, 3), maxDetectWithin, maxDetectWithin, maxDetectWithin},
		{"the most probes", Config{KeepAlive: keepAlive(time.Second, time.Second, 127)}, keepAlive(time.Second, time.Second, 127), 128 * time.Second, 128 * time.Second, 128 * time.Second},
		{"HighlyAvailable", HighlyAvailable(), keepAlive(2*time.Second, time.Second, 3), 5 * time.Second, 5 * time.Second, 5 * time.Second},
		{"RarelyUsed", RarelyUsed(), keepAlive(2*time.Minute, time.Minute, 3), 5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{"DistributedNodes", DistributedNodes(), keepAlive(5*time.Second, 3*time.Second, 5), 20 * time.Second, 20 * time.Second, 20 * time.Second},
	} {
		tt.cfg.Unguarded = true
		t.Run(tt.name, func(t *testing.T) {
			families(t, func(t *testing.T, network, addr string) {
				c, err := newDialer(t, tt.cfg).DialContext(t.Context(), network, addr)
				require.NoError(t, err)
				defer c.Close()
				s := inspect(t, c)
				assert.Equal(t, tt.ka, s.KeepAlive)
				assert.Equal(t, tt.ut, s.UserTimeout)
				assert.Equal(t, tt.cfg.FastUnreachable, s.FastUnreachable)
				assert.True(t, s.NoDelay, "package net's default stays")
				assert.Equal(t, tt.idle, s.DetectIdle)
				assert.Equal(t, tt.busy, s.DetectBusy)
				assert.False(t, s.MultipathTCP)
				assert.False(t, s.Layered)
				assert.Equal(t, "ESTABLISHED", s.State)
			})
		})
	}
}

func TestUnderAGuardTheUserTimeoutIsABackstop(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    Config
		ut     time.Duration
		within time.Duration
	}{
		{"zero", Config{}, 30 * time.Second, 10 * time.Second},
		{"2.5s", Config{DetectWithin: 2500 * time.Millisecond}, 7500 * time.Millisecond, 2500 * time.Millisecond},
		{"the longest", Config{DetectWithin: maxDetectWithin}, 3 * maxDetectWithin, maxDetectWithin},
		{"longer than the kernel's longest", Config{KeepAlive: keepAlive(32767*time.Second, 32767*time.Second, 60)}, maxUserTimeout, 61 * 32767 * time.Second},
		{"a given one", Config{UserTimeout: 5 * time.Second}, 5 * time.Second, 5 * time.Second},
		{"none", Config{UserTimeout: -1}, 0, 10 * time.Second},
		{"slow readers", Config{SlowReaders: true}, 0, 10 * time.Second},
		{"slow readers with a backstop", Config{SlowReaders: true, UserTimeout: time.Minute}, time.Minute, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			families(t, func(t *testing.T, network, addr string) {
				d := newDialer(t, tt.cfg)
				c, err := d.DialContext(t.Context(), network, addr)
				require.NoError(t, err)
				defer c.Close()
				s, err := d.Inspect(c)
				require.NoError(t, err)
				assert.Equal(t, tt.ut, s.UserTimeout)
				assert.Equal(t, tt.within, s.DetectIdle)
				assert.Equal(t, tt.within, s.DetectBusy)
			})
		})
	}
}

func TestTheUserTimeoutIsNoBackstopWhereNoGuardJudges(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	g, err := health.NewGuard(health.GuardConfig{PollInterval: -1})
	require.NoError(t, err)
	defer g.Close()
	d := newDialer(t, Config{Guard: g})
	d.policy = nil // as if the kernel told too little
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, 10*time.Second, inspect(t, c).UserTimeout)
}

func TestKeepAliveOffIsOff(t *testing.T) {
	families(t, func(t *testing.T, network, addr string) {
		c, err := newDialer(t, Config{KeepAlive: keepAliveOff}).DialContext(t.Context(), network, addr)
		require.NoError(t, err)
		defer c.Close()
		s := inspect(t, c)
		assert.False(t, s.KeepAlive.Enable)
		assert.Zero(t, s.UserTimeout)
		assert.Equal(t, Never, s.DetectIdle)
		assert.Equal(t, KernelLimit, s.DetectBusy)
		assert.Contains(t, s.String(), "noticed after never idle")
	})
}

func TestBuffersAreSetBeforeConnecting(t *testing.T) {
	families(t, func(t *testing.T, network, addr string) {
		c, err := newDialer(t, Config{ReadBuffer: 32 << 10, WriteBuffer: 64 << 10}).DialContext(t.Context(), network, addr)
		require.NoError(t, err)
		defer c.Close()
		s := inspect(t, c)
		assert.Equal(t, 64<<10, s.ReadBuffer)
		assert.Equal(t, 128<<10, s.WriteBuffer)
	})
}

func TestOptionsAreSetBeforeTLS(t *testing.T) {
	srv := tlsServer(t)
	handshook := false
	d := newDialer(t, Config{DetectWithin: 5 * time.Second, TLSConfig: srv.client, Trace: &Trace{
		ConnectDone: func(context.Context, ConnectDone) { assert.False(t, handshook) },
		HandshakeStart: func(ctx context.Context, _ HandshakeStart) context.Context {
			handshook = true
			return ctx
		},
	}})
	c, err := d.DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	assert.True(t, handshook)
	s := inspect(t, c)
	assert.True(t, s.Layered)
	assert.Equal(t, 15*time.Second, s.DetectIdle, "without the guard")
	assert.Equal(t, 15*time.Second, s.DetectBusy, "without the guard")
	bare := inspect(t, c.(*tls.Conn).NetConn())
	assert.False(t, bare.Layered)
	assert.Equal(t, s.KeepAlive, bare.KeepAlive)
}

func TestWhatControlSetsWins(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	d := newDialer(t, Config{Control: func(_ context.Context, _, _ string, rc syscall.RawConn) error {
		var opErr error
		err := rc.Control(func(fd uintptr) {
			opErr = errors.Join(
				sockopt.SetUserTimeout(fd, 33*time.Second),
				sockopt.SetKeepAlive(fd, sockopt.KeepAlive{Enable: true, Idle: 11 * time.Second, Interval: 11 * time.Second, Count: 2}),
			)
		})
		if err != nil {
			return err
		}
		return opErr
	}})
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	s := inspect(t, c)
	assert.Equal(t, 33*time.Second, s.UserTimeout)
	assert.Equal(t, keepAlive(11*time.Second, 11*time.Second, 2), s.KeepAlive)
}

func TestAValueThatTheKernelRefusesFailsTheDialWithItsErrno(t *testing.T) {
	// New refuses such values, so this one is smuggled past it.
	d := newDialer(t, Config{})
	d.cfg.KeepAlive.Count = 500
	_, err := d.DialContext(t.Context(), "tcp", echoServer(t, listen(t, "tcp", "127.0.0.1:0")))
	phase(t, err, PhaseOptions)
	assert.ErrorIs(t, err, syscall.EINVAL)
	assert.ErrorContains(t, err, "TCP_KEEPCNT")
}

func TestMultipathTCPIsOnlyWhatWasAskedFor(t *testing.T) {
	t.Setenv("GODEBUG", "multipathtcp=1")
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := echoServer(t, ln)

	c, err := newDialer(t, Config{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	s := inspect(t, c)
	assert.False(t, s.MultipathTCP, "GODEBUG must not take the user timeout away")
	assert.Equal(t, 30*time.Second, s.UserTimeout)

	calls := 0
	d := newDialer(t, Config{MultipathTCP: true, UserTimeout: -1, Control: func(context.Context, string, string, syscall.RawConn) error {
		calls++
		return nil
	}})
	c, err = d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	s, err = Inspect(c)
	require.NoError(t, err)
	if !s.MultipathTCP {
		t.Skip("this kernel has no Multipath TCP")
	}
	assert.Equal(t, 1, calls, "package net must not fall back behind our back")
	assert.True(t, s.MultipathInUse)
	assert.Equal(t, []string{"user timeout", "fast unreachable", "RTO max"}, s.Unsupported)
	assert.Equal(t, keepAlive(4*time.Second, 2*time.Second, 3), s.KeepAlive)
	wait := sockopt.MPTCPCloseTimeout()
	assert.Positive(t, wait)
	assert.Equal(t, 10*time.Second+wait, s.DetectIdle)
	assert.Equal(t, KernelLimit+wait, s.DetectBusy)
	assert.Contains(t, s.String(), ", multipath,")
	assert.Contains(t, s.String(), "unsupported: user timeout")
	talk(t, c)
}

func TestMultipathTCPThatFellBackIsReported(t *testing.T) {
	c, err := newDialer(t, Config{MultipathTCP: true, SlowReaders: true}).
		DialContext(t.Context(), "tcp", echoServer(t, plainListener(t)))
	require.NoError(t, err)
	defer c.Close()
	s, err := Inspect(c)
	require.NoError(t, err)
	if !s.MultipathTCP {
		t.Skip("this kernel has no Multipath TCP")
	}
	assert.False(t, s.MultipathInUse)
	assert.Equal(t, 10*time.Second, s.DetectIdle, "a TCP connection waits for no other path")
	assert.Contains(t, s.String(), "multipath fallen back to TCP")
}

// plainListener is one without Multipath TCP, which is package net's default.
func plainListener(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln
}

func TestUnixSocketsAreSkippedNotFailed(t *testing.T) {
	cfg := Config{FastUnreachable: true, ReadBuffer: 32 << 10, LocalAddr: &net.TCPAddr{}}
	path := filepath.Join(t.TempDir(), "s")
	ln, err := newDialer(t, cfg).ListenConfig().Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	c, err := newDialer(t, cfg).DialContext(t.Context(), "unix", echoServer(t, ln))
	require.NoError(t, err)
	defer c.Close()
	s := inspect(t, c)
	assert.Zero(t, s.DetectIdle)
	assert.Zero(t, s.DetectBusy)
	assert.Positive(t, s.ReadBuffer)
	assert.Contains(t, s.String(), "unix "+path+": no silent death")
}

// acceptOne returns the connection that ln accepts when it is dialled.
func acceptOne(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	c, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAcceptedConnectionsHaveTheListenersOptions(t *testing.T) {
	d := newDialer(t, Config{DetectWithin: 5 * time.Second, FastUnreachable: true, ReadBuffer: 32 << 10, WriteBuffer: 64 << 10})
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(addr, func(t *testing.T) {
			ln, err := d.ListenConfig().Listen(t.Context(), "tcp", addr)
			require.NoError(t, err)
			defer ln.Close()
			assert.IsType(t, (*net.TCPListener)(nil), ln)
			c := acceptOne(t, ln)
			assert.IsType(t, (*net.TCPConn)(nil), c)
			s := inspect(t, c)
			assert.Equal(t, keepAlive(2*time.Second, time.Second, 3), s.KeepAlive)
			assert.Equal(t, 5*time.Second, s.UserTimeout)
			assert.True(t, s.FastUnreachable)
			assert.True(t, s.NoDelay)
			assert.Equal(t, 64<<10, s.ReadBuffer)
			assert.Equal(t, 128<<10, s.WriteBuffer)
			assert.Equal(t, 5*time.Second, s.DetectIdle)
			assert.False(t, s.MultipathTCP, "package net's listeners are multipath by default")
		})
	}
}

func TestAcceptedConnectionsWithKeepAliveOffHaveNone(t *testing.T) {
	ln, err := newDialer(t, Config{KeepAlive: keepAliveOff}).ListenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	s := inspect(t, acceptOne(t, ln))
	assert.False(t, s.KeepAlive.Enable)
	assert.Zero(t, s.UserTimeout)
}

// This is why ListenConfig turns package net's own keep-alive off.
func TestPackageNetResetsKeepAliveOnAcceptUnlessToldNotTo(t *testing.T) {
	lc := newDialer(t, Config{}).ListenConfig()
	lc.KeepAlive = 0
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	s := inspect(t, acceptOne(t, ln))
	assert.Equal(t, keepAlive(15*time.Second, 15*time.Second, 9), s.KeepAlive)
	assert.Equal(t, 10*time.Second, s.UserTimeout, "the rest survives")
}

func TestListenConfigLeavesUDPAlone(t *testing.T) {
	pc, err := newDialer(t, Config{}).ListenConfig().ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	pc.Close()
}

func TestInspectWorksOnAnybodysConnection(t *testing.T) {
	addr := echoServer(t, plainListener(t))
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	s := inspect(t, c)
	assert.Equal(t, keepAlive(15*time.Second, 15*time.Second, 9), s.KeepAlive)
	assert.Equal(t, 150*time.Second, s.DetectIdle)
	assert.Equal(t, KernelLimit, s.DetectBusy)
	assert.Equal(t, c.LocalAddr(), s.Local)
	assert.Equal(t, addr, s.Remote.String())
	assert.Positive(t, s.RTT)
	assert.Less(t, s.LastHeard, time.Minute)
}

func TestADeadConnectionIsNotSaidToDieLater(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	c, err := newDialer(t, Config{}).DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	peer, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, peer.(*net.TCPConn).SetLinger(0))
	require.NoError(t, peer.Close())
	require.Eventually(t, func() bool { return inspect(t, c).State == "CLOSED" }, 5*time.Second, time.Millisecond)
	s := inspect(t, c).String()
	assert.Contains(t, s, ": dead (CLOSED)")
	assert.NotContains(t, s, "noticed")
}

func TestTheUserTimeoutBoundsConnectingToo(t *testing.T) {
	// The user timeout also bounds connecting: the kernel gives up before
	// Config.Timeout does.
	d := newDialer(t, Config{DetectWithin: 2 * time.Second, Timeout: time.Minute})
	begin := time.Now()
	_, err := d.DialContext(t.Context(), "tcp", blackHole(t, "127.0.0.1", 0))
	phase(t, err, PhaseConnect)
	assert.ErrorIs(t, err, syscall.ETIMEDOUT)
	assert.Less(t, time.Since(begin), 5*time.Second)
	assert.ErrorContains(t, err, "the host is down, or a firewall drops the packets")
}
