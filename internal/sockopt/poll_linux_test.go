package sockopt

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

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

func TestPeekAndPollDoNotWaitOnABlockingSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	done := make(chan error, 1)
	go func() {
		_, err := Peek(uintptr(fds[0]))
		if _, pollErr := Poll(uintptr(fds[0])); pollErr != nil {
			err = pollErr
		}
		done <- err
	}()
	select {
	case err := <-done:
		assert.Equal(t, syscall.EAGAIN, err)
	case <-time.After(5 * time.Second):
		t.Error("it waits")
		_, err := unix.Write(fds[1], []byte("x")) // wake it up
		require.NoError(t, err)
		<-done
	}
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
		require.Eventually(t, func() bool {
			i := read()
			return i.BytesAcked-before.BytesAcked == 1000 && i.BytesReceived == 10
		}, 5*time.Second, time.Millisecond)
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
