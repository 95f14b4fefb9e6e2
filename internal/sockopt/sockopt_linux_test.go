package sockopt

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// on runs f with c's descriptor.
func on(t *testing.T, c net.Conn, f func(fd uintptr)) {
	t.Helper()
	require.NoError(t, Control(c, func(fd uintptr) error { f(fd); return nil }))
}

// families runs f on a connection of each address family.
func families(t *testing.T, f func(t *testing.T, client, server net.Conn)) {
	t.Run("family=4", func(t *testing.T) {
		c, s := pair(t, "tcp4", "127.0.0.1:0")
		f(t, c, s)
	})
	t.Run("family=6", func(t *testing.T) {
		c, s := pair(t, "tcp6", "[::1]:0")
		f(t, c, s)
	})
}

func TestKeepAliveReadsBackRoundedUp(t *testing.T) {
	families(t, func(t *testing.T, c, _ net.Conn) {
		on(t, c, func(fd uintptr) {
			require.NoError(t, SetKeepAlive(fd, KeepAlive{Enable: true, Idle: 1, Interval: 1500 * time.Millisecond, Count: 4}))
			ka, err := GetKeepAlive(fd)
			require.NoError(t, err)
			assert.Equal(t, KeepAlive{true, time.Second, 2 * time.Second, 4}, ka)

			require.NoError(t, SetKeepAlive(fd, KeepAlive{Enable: false}))
			ka, err = GetKeepAlive(fd)
			require.NoError(t, err)
			assert.Equal(t, KeepAlive{false, time.Second, 2 * time.Second, 4}, ka, "zero parts are left alone")
		})
	})
}

func TestOneRefusedKeepAliveOptionLeavesTheOthersSet(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	on(t, c, func(fd uintptr) {
		err := SetKeepAlive(fd, KeepAlive{Enable: true, Idle: 7 * time.Second, Interval: 32768 * time.Second, Count: 128})
		assert.ErrorContains(t, err, "TCP_KEEPCNT")
		assert.ErrorContains(t, err, "TCP_KEEPINTVL")
		ka, err := GetKeepAlive(fd)
		require.NoError(t, err)
		assert.True(t, ka.Enable)
		assert.Equal(t, 7*time.Second, ka.Idle)
	})
}

func TestARefusedOptionDoesNotHideBehindAMissingOne(t *testing.T) {
	missing := wrap("setsockopt", "A", syscall.ENOPROTOOPT, true)
	refused := wrap("setsockopt", "B", syscall.EINVAL, false)
	assert.NoError(t, join(nil, nil))
	assert.ErrorIs(t, join(nil, missing), errors.ErrUnsupported)
	err := join(missing, nil, refused)
	assert.ErrorIs(t, err, syscall.EINVAL)
	assert.NotErrorIs(t, err, errors.ErrUnsupported)
}

// The kernel computes when the first probe is due when KEEPIDLE is set on a
// socket with keep-alive on. Otherwise a whole KEEPIDLE passes first.
func TestSettingKeepAliveOnAnIdleConnectionProbesAtOnce(t *testing.T) {
	c, s := pair(t, "tcp", "127.0.0.1:0")
	require.NoError(t, s.(*net.TCPConn).SetKeepAlive(false)) // its probes would be answered
	const idle = 2 * time.Second
	var info Info
	read := func() Info {
		on(t, c, func(fd uintptr) { require.NoError(t, TCPInfo(fd, &info)) })
		return info
	}
	on(t, c, func(fd uintptr) { require.NoError(t, SetKeepAlive(fd, KeepAlive{Enable: false})) })
	require.Eventually(t, func() bool { i := read(); return i.SincePeerHeard() > idle }, 10*time.Second, 10*time.Millisecond)
	clock := netlab.NewClock(t)
	before, begin := info, time.Now()
	on(t, c, func(fd uintptr) {
		require.NoError(t, SetKeepAlive(fd, KeepAlive{Enable: true, Idle: idle, Interval: idle, Count: 9}))
	})
	require.Eventually(t, func() bool { return read().SegsOut != before.SegsOut }, 10*time.Second, time.Millisecond)
	assert.Less(t, clock.Since(begin), idle*3/4)
}

func TestKeepAliveReachesAConnectionThroughTLS(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	wrapped := wrapped{inner: tls.Client(c, &tls.Config{})}
	on(t, wrapped, func(fd uintptr) {
		require.NoError(t, SetKeepAlive(fd, KeepAlive{Enable: true, Idle: 7 * time.Second}))
	})
	on(t, c, func(fd uintptr) {
		ka, err := GetKeepAlive(fd)
		require.NoError(t, err)
		assert.Equal(t, 7*time.Second, ka.Idle)
	})
}

func TestValuesThatTheKernelRefusesAreErrorsWithTheirErrno(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	on(t, c, func(fd uintptr) {
		for name, err := range map[string]error{
			"TCP_KEEPIDLE":     SetKeepAlive(fd, KeepAlive{Enable: true, Idle: 100 * 24 * time.Hour}),
			"TCP_KEEPINTVL":    SetKeepAlive(fd, KeepAlive{Enable: true, Interval: 32768 * time.Second}),
			"TCP_KEEPCNT":      SetKeepAlive(fd, KeepAlive{Enable: true, Count: 128}),
			"TCP_USER_TIMEOUT": SetUserTimeout(fd, -1),
		} {
			assert.ErrorIs(t, err, syscall.EINVAL, name)
			assert.NotErrorIs(t, err, errors.ErrUnsupported, name)
			assert.ErrorContains(t, err, name)
		}
		assert.ErrorIs(t, SetUserTimeout(fd, 30*24*time.Hour), syscall.EINVAL, "more milliseconds than an int holds")
	})
}

func TestUserTimeoutReadsBackRoundedUp(t *testing.T) {
	families(t, func(t *testing.T, c, _ net.Conn) {
		on(t, c, func(fd uintptr) {
			for set, want := range map[time.Duration]time.Duration{
				1:                       time.Millisecond,
				2500 * time.Microsecond: 3 * time.Millisecond,
				10 * time.Second:        10 * time.Second,
				0:                       0,
			} {
				require.NoError(t, SetUserTimeout(fd, set))
				got, err := UserTimeout(fd)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
		})
	})
}

func TestRTOMaxReadsBackWhereTheKernelHasIt(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	on(t, c, func(fd uintptr) {
		err := SetRTOMax(fd, 2*time.Second)
		if errors.Is(err, errors.ErrUnsupported) {
			assert.ErrorIs(t, err, syscall.ENOPROTOOPT)
			t.Skip("needs Linux 6.15:", err)
		}
		require.NoError(t, err)
		got, err := RTOMax(fd)
		require.NoError(t, err)
		assert.Equal(t, 2*time.Second, got)
		assert.ErrorIs(t, SetRTOMax(fd, time.Hour), syscall.EINVAL)
	})
}

func TestRecvErrReadsBackOnBothFamilies(t *testing.T) {
	families(t, func(t *testing.T, c, _ net.Conn) {
		on(t, c, func(fd uintptr) {
			for _, want := range []bool{true, false} {
				require.NoError(t, SetRecvErr(fd, want))
				got, err := RecvErr(fd)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
		})
	})
}

// An IPv6 socket may carry IPv4, whose ICMP errors go by IP_RECVERR.
func TestRecvErrCoversIPv4OnAnIPv6Socket(t *testing.T) {
	ln, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	client, err := net.Dial("tcp4", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer client.Close()
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	on(t, c, func(fd uintptr) {
		if family, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); family != unix.AF_INET6 {
			t.Skip("no dual stack here")
		}
		for _, want := range []bool{true, false} {
			require.NoError(t, SetRecvErr(fd, want))
			six, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
			require.NoError(t, err)
			assert.Equal(t, want, six != 0)
			four, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR)
			require.NoError(t, err)
			assert.Equal(t, want, four != 0)
		}
	})
}

func TestNoDelayAndBuffersReadBack(t *testing.T) {
	families(t, func(t *testing.T, c, _ net.Conn) {
		on(t, c, func(fd uintptr) {
			for _, want := range []bool{false, true} {
				require.NoError(t, SetNoDelay(fd, want))
				got, err := NoDelay(fd)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
			require.NoError(t, SetReadBuffer(fd, 16<<10))
			n, err := ReadBuffer(fd)
			require.NoError(t, err)
			assert.Equal(t, 32<<10, n, "Linux doubles it")
			require.NoError(t, SetWriteBuffer(fd, 16<<10))
			n, err = WriteBuffer(fd)
			require.NoError(t, err)
			assert.Equal(t, 32<<10, n, "Linux doubles it")
		})
	})
}

func TestAUnixSocketIsToldFromTCPAndRefusesItsOptionsClearly(t *testing.T) {
	c, _ := pair(t, "unix", filepath.Join(t.TempDir(), "s"))
	on(t, c, func(fd uintptr) {
		assert.False(t, IsTCP(fd))
		for name, err := range map[string]error{
			"TCP_USER_TIMEOUT": SetUserTimeout(fd, time.Second),
			"TCP_KEEPCNT":      SetKeepAlive(fd, KeepAlive{Enable: true, Count: 3}),
			"TCP_INFO":         TCPInfo(fd, new(Info)),
			"IP_RECVERR":       SetRecvErr(fd, true),
			"TCP_NODELAY":      SetNoDelay(fd, true),
		} {
			assert.ErrorIs(t, err, errors.ErrUnsupported, name)
			assert.ErrorIs(t, err, syscall.EOPNOTSUPP, name)
			assert.ErrorContains(t, err, name)
			assert.ErrorContains(t, err, "(not a", name)
		}
		_, err := Peek(fd)
		assert.Equal(t, syscall.EAGAIN, err, "peek and poll work on any stream")
	})
}

func TestADescriptorThatIsNoSocketIsARealError(t *testing.T) {
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer f.Close()
	_, err = UserTimeout(f.Fd())
	assert.ErrorIs(t, err, syscall.ENOTSOCK)
	assert.NotErrorIs(t, err, errors.ErrUnsupported)
	_, err = Poll(1 << 20)
	assert.ErrorIs(t, err, syscall.EBADF)
}

// multipath returns a socket of Multipath TCP, whose peer's is one if it knows of
// it.
func multipath(t *testing.T, knows bool) net.Conn {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(knows)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	on(t, c, func(fd uintptr) {
		if socket, _ := IsMPTCP(fd); !socket {
			t.Skip("this kernel has no Multipath TCP")
		}
	})
	return c
}

func TestMultipathTCPIsRecognised(t *testing.T) {
	plain, _ := pair(t, "tcp", "127.0.0.1:0")
	on(t, plain, func(fd uintptr) {
		socket, inUse := IsMPTCP(fd)
		assert.False(t, socket)
		assert.False(t, inUse)
		assert.True(t, IsTCP(fd))
	})

	on(t, multipath(t, true), func(fd uintptr) {
		_, inUse := IsMPTCP(fd)
		assert.True(t, inUse)
		assert.True(t, IsTCP(fd))
		err := SetUserTimeout(fd, time.Second)
		assert.ErrorIs(t, err, errors.ErrUnsupported, "user timeout and Multipath TCP exclude each other")
	})
}

func TestMultipathTCPThatFellBackIsNotInUse(t *testing.T) {
	on(t, multipath(t, false), func(fd uintptr) {
		_, inUse := IsMPTCP(fd)
		assert.False(t, inUse)
	})
}
