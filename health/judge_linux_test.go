package health

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// judged is what a Guard would make of the events that c has now.
func judged(t testing.TB, c net.Conn, more sockopt.Events) (cause error) {
	t.Helper()
	require.NoError(t, sockopt.Control(c, func(fd uintptr) error {
		e, err := sockopt.Poll(fd)
		cause = judgeEvents(fd, e|more)
		return err
	}))
	return cause
}

func TestAnEndBesideARoutersWordIsEOF(t *testing.T) {
	c, peer := pair(t)
	require.NoError(t, peer.Close())
	eventually(t, "the FIN", func() bool { return judged(t, c, 0) != nil })
	assert.Equal(t, io.EOF, judged(t, c, sockopt.Failed))
}

func TestACloseOfBothSidesIsNoReset(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		w, died := watch(t, g, c)
		require.NoError(t, c.CloseWrite())
		_, err := peer.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, peer.Close())
		receive(t, died, "the callback")
		assert.Equal(t, errEnded, w.Cause())
		assert.Equal(t, Conn, Classify(w.Cause()))
	})
}

func TestTheEndOfAUnixSocketIsEOF(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := unixPair(t)
		w, died := watch(t, g, c)
		require.NoError(t, peer.Close())
		receive(t, died, "the callback")
		assert.Equal(t, io.EOF, w.Cause())
	})
}

func TestOwnCloseReadIsAnEnd(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, _ := pair(t)
		w, died := watch(t, g, c)
		require.NoError(t, c.CloseRead())
		receive(t, died, "the callback")
		assert.Equal(t, io.EOF, w.Cause(), "as the doc comment of Guard says")
	})
}

// TestAResetInTheMiddleOfASilenceIsAReset: what was retransmitted or probed in
// vain doesn't make a time-out of it.
func TestAResetInTheMiddleOfASilenceIsAReset(t *testing.T) {
	for name, limit := range map[string]func(fd uintptr) error{
		"no limit":     func(uintptr) error { return nil },
		"user timeout": func(fd uintptr) error { return sockopt.SetUserTimeout(fd, time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.New(t)
			c, _ := distant(t, lab)
			options(t, c, limit)
			g := newGuard(t, GuardConfig{})
			w, died := watch(t, g, c)
			lab.Drop()
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			eventually(t, "a retransmission", func() (again bool) {
				options(t, c, func(fd uintptr) error {
					var info sockopt.Info
					err := sockopt.TCPInfo(fd, &info)
					again = info.Retransmits > 0
					return err
				})
				return again
			})
			lab.Reset()
			lab.Heal()
			receive(t, died, "the callback")
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			assert.Equal(t, syscall.ECONNRESET, w.Cause())
		})
	}
}

// TestAResetInAnswerToTheLastProbeIsAReset: it is what a host says that has been
// rebooted.
func TestAResetInAnswerToTheLastProbeIsAReset(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c, _ := distant(t, lab)
	g := newGuard(t, GuardConfig{})
	w, died := watch(t, g, c)
	lab.Server.Reboot()
	options(t, c, func(fd uintptr) error { // not before, or the probe may be lost in a slow reboot
		return sockopt.SetKeepAlive(fd, sockopt.KeepAlive{Enable: true, Idle: time.Second, Interval: 9 * time.Second, Count: 1})
	})
	receive(t, died, "the callback")
	assert.Equal(t, syscall.ECONNRESET, w.Cause())
}

func TestSniffTakesTheErrnoUnderTLS(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c, _ := distant(t, lab)
	options(t, c, func(fd uintptr) error { return sockopt.SetRecvErr(fd, true) })
	w, _ := watch(t, newGuard(t, GuardConfig{}), tls.Client(c, &tls.Config{}))
	lab.Unreachable()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	var found error
	eventually(t, "the router's word", func() bool { found = w.Sniff(); return found != nil })
	assert.ErrorIs(t, found, syscall.EHOSTUNREACH)
	assert.False(t, w.Dead())
}

func TestSniffUnderTLSKnowsAReset(t *testing.T) {
	c, peer := pair(t)
	g := newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true})
	w, _ := watch(t, g, tls.Client(c, &tls.Config{}))
	reset(t, peer)
	eventually(t, "the reset", func() bool { return w.Sniff() != nil })
	assert.Equal(t, syscall.ECONNRESET, w.Sniff())
	assert.True(t, w.Dead())
}

// forbid makes a system call fail on this thread, which dies with the test.
func forbid(t *testing.T, call uint32) {
	t.Helper()
	runtime.LockOSThread() // for good
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	}
	if err != nil {
		t.Skip("no seccomp: ", err)
	}
}

func TestASandboxIsNoDeath(t *testing.T) {
	g := newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true})
	c, peer := pair(t)
	w, _ := watch(t, g, c)
	other, _ := watch(t, g, first(pair(t)))

	forbid(t, unix.SYS_RECVFROM)
	require.NoError(t, w.Sniff())
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	eventually(t, "unread", func() bool { return w.Sniff() == ErrUnread })
	require.NoError(t, peer.Close())
	eventually(t, "the end", func() bool { return w.Sniff() == io.EOF })

	forbid(t, unix.SYS_PPOLL)
	assert.ErrorIs(t, other.Sniff(), syscall.EPERM)
	assert.False(t, other.Dead())
}

func TestTheEpollDescriptorIsNotInherited(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	watch(t, g, first(pair(t)))
	flags, err := unix.FcntlInt(uintptr(g.events.fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.NotZero(t, flags&unix.FD_CLOEXEC)
}

func TestStopUnregisters(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	c, _ := pair(t)
	registered := func() bool {
		info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(g.events.fd))
		require.NoError(t, err)
		return strings.Contains(string(info), "tfd:")
	}
	one, _ := watch(t, g, c)
	two, _ := watch(t, g, c)
	one.Stop()
	require.True(t, registered(), "for the other Watch")
	two.Stop()
	require.False(t, registered())
}

// TestADeathIsDeliveredOnce: a level-triggered registration would come back with
// every other event, for ever.
func TestADeathIsDeliveredOnce(t *testing.T) {
	p, err := newEpoll()
	require.NoError(t, err)
	delivered := make(chan entryID, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p.wait(func(id entryID, _ sockopt.Events) {
			select {
			case delivered <- id:
			default: // the loop must go on to end
			}
		}) {
		}
	}()
	defer func() { p.close(); <-done }()
	count := 0
	for i := range uint32(30) {
		c, peer := pair(t)
		options(t, c, func(fd uintptr) error { return p.add(fd, entryID{i, 1}) })
		require.NoError(t, peer.Close())
		for {
			id := receive(t, delivered, "an event")
			if id.index == 0 {
				count++
			}
			if id.index == i {
				break
			}
		}
	}
	assert.LessOrEqual(t, count, 3)
}

func TestAGuardWhoseEventsEndLooksItself(t *testing.T) {
	for _, interval := range []time.Duration{time.Millisecond, -1} {
		g := newGuard(t, GuardConfig{PollInterval: interval})
		c, peer := pair(t)
		old, died := watch(t, g, c)
		require.NoError(t, g.events.file.Close())
		eventually(t, "the loss is noticed", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.events == nil
		})
		require.NoError(t, peer.Close())
		receive(t, died, "the callback for the old")
		c, peer = pair(t)
		w, died := watch(t, g, c)
		require.NoError(t, peer.Close())
		receive(t, died, "the callback for the new")
		runtime.KeepAlive([]*Watch{old, w})
	}
}
