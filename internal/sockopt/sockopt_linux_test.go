package sockopt

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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

func TestPeekAndPollTellWhatIsWaiting(t *testing.T) {
	families(t, func(t *testing.T, c, s net.Conn) {
		peek := func() (n int, err error) {
			on(t, c, func(fd uintptr) { n, err = Peek(fd) })
			return n, err
		}
		poll := func() (e Events) {
			on(t, c, func(fd uintptr) {
				var err error
				e, err = Poll(fd)
				require.NoError(t, err)
			})
			return e
		}
		require.NoError(t, c.SetDeadline(time.Unix(1, 0)), "deadlines must not matter")
		_, err := peek()
		assert.Equal(t, syscall.EAGAIN, err)
		assert.Zero(t, poll())

		_, err = s.Write([]byte("xy"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { n, _ := peek(); return n == 1 }, 5*time.Second, time.Millisecond)
		assert.Equal(t, Readable, poll())

		require.NoError(t, c.SetDeadline(time.Time{}))
		_, err = io.ReadFull(c, make([]byte, 2))
		require.NoError(t, err, "peek must consume nothing")

		require.NoError(t, s.(*net.TCPConn).CloseWrite())
		require.Eventually(t, func() bool { n, err := peek(); return n == 0 && err == nil }, 5*time.Second, time.Millisecond)
		assert.Equal(t, Readable|ReadClosed, poll())
	})
}

func TestPeekAndPollTellAReset(t *testing.T) {
	c, s := pair(t, "tcp", "127.0.0.1:0")
	require.NoError(t, s.(*net.TCPConn).SetLinger(0))
	require.NoError(t, s.Close())
	require.Eventually(t, func() (dead bool) {
		on(t, c, func(fd uintptr) { e, _ := Poll(fd); dead = e&Failed != 0 })
		return dead
	}, 5*time.Second, time.Millisecond)
	on(t, c, func(fd uintptr) {
		e, err := Poll(fd)
		require.NoError(t, err)
		assert.Equal(t, Readable|ReadClosed|HangUp|Failed, e)
		_, err = Peek(fd)
		assert.Equal(t, syscall.ECONNRESET, err)
	})
}

func TestTCPInfoKnowsStateAndTraffic(t *testing.T) {
	families(t, func(t *testing.T, c, s net.Conn) {
		var info Info
		read := func() Info {
			on(t, c, func(fd uintptr) { require.NoError(t, TCPInfo(fd, &info)) })
			return info
		}
		before := read()
		assert.Equal(t, StateEstablished, before.State)
		assert.Positive(t, before.RTO)
		for f := FieldBasic; f <= FieldNotSent; f++ {
			assert.True(t, before.Has(f), "a kernel that Go 1.26 supports well should have field %d", f)
		}
		_, err := c.Write(make([]byte, 1000))
		require.NoError(t, err)
		_, err = s.Write(make([]byte, 10))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return read().BytesAcked-before.BytesAcked == 1000 }, 5*time.Second, time.Millisecond)
		assert.Equal(t, uint64(10), info.BytesReceived)
		if info.Has(FieldDataSegs) {
			assert.Equal(t, uint32(1), info.DataSegsIn)
		}
		if info.Has(FieldSndWnd) {
			assert.Positive(t, info.SndWnd)
		}
		assert.Less(t, info.SincePeerHeard(), 5*time.Second)

		require.NoError(t, s.(*net.TCPConn).CloseWrite())
		require.Eventually(t, func() bool { return read().State == StateCloseWait }, 5*time.Second, time.Millisecond)
	})
}

func TestFieldEndsMatchTheKernelStructure(t *testing.T) {
	var raw unix.TCPInfo
	for f, end := range map[Field]uintptr{
		FieldBasic:     unsafe.Offsetof(raw.Pacing_rate),
		FieldBytes:     unsafe.Offsetof(raw.Segs_out),
		FieldSegs:      unsafe.Offsetof(raw.Notsent_bytes),
		FieldNotSent:   unsafe.Offsetof(raw.Data_segs_in),
		FieldDataSegs:  unsafe.Offsetof(raw.Delivery_rate),
		FieldBytesSent: unsafe.Offsetof(raw.Dsack_dups),
		FieldSndWnd:    unsafe.Offsetof(raw.Rcv_wnd),
	} {
		assert.True(t, (&Info{Len: int(end)}).Has(f), "field %d", f)
		assert.False(t, (&Info{Len: int(end) - 1}).Has(f), "field %d", f)
	}
}

func TestDisconnectResetsTheOwner(t *testing.T) {
	families(t, func(t *testing.T, c, _ net.Conn) {
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		on(t, c, func(fd uintptr) { require.NoError(t, Disconnect(fd)) })
		assert.ErrorIs(t, <-read, syscall.ECONNRESET)
	})
}

func TestMultipathTCPIsRecognised(t *testing.T) {
	plain, _ := pair(t, "tcp", "127.0.0.1:0")
	on(t, plain, func(fd uintptr) {
		socket, inUse := IsMPTCP(fd)
		assert.False(t, socket)
		assert.False(t, inUse)
		assert.True(t, IsTCP(fd))
	})

	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	on(t, c, func(fd uintptr) {
		socket, inUse := IsMPTCP(fd)
		if !socket {
			t.Skip("this kernel has no Multipath TCP")
		}
		assert.True(t, inUse)
		assert.True(t, IsTCP(fd))
		err := SetUserTimeout(fd, time.Second)
		assert.ErrorIs(t, err, errors.ErrUnsupported, "user timeout and Multipath TCP exclude each other")
	})
}

func TestHotPathsAllocateNothing(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	var info Info
	on(t, c, func(fd uintptr) {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = Peek(fd) }), "Peek")
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = Poll(fd) }), "Poll")
		assert.Zero(t, testing.AllocsPerRun(100, func() { _ = TCPInfo(fd, &info) }), "TCPInfo")
	})
}

func BenchmarkHotPaths(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	var info Info
	for name, f := range map[string]func(fd uintptr){
		"op=peek":    func(fd uintptr) { _, _ = Peek(fd) },
		"op=poll":    func(fd uintptr) { _, _ = Poll(fd) },
		"op=tcpinfo": func(fd uintptr) { _ = TCPInfo(fd, &info) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			_ = Control(c, func(fd uintptr) error {
				for b.Loop() {
					f(fd)
				}
				return nil
			})
		})
	}
}
