package netlab_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestRebootSendsNoFINAndAnswersLaterSegmentsWithRST(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))

		lab.Server.Reboot()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		requireTimeout(t, err)
		require.ErrorIs(t, dialError(t, lab, addr), syscall.ECONNREFUSED)
		require.ErrorIs(t, exchange(c, soon), syscall.ECONNRESET)

		go echo(lab.Server.Listen(t, port))
		require.NoError(t, exchange(dial(t, lab, addr), soon))
	})
}

func TestRebootEndsListenersAndAcceptedConnections(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, port)
	dial(t, lab, lab.Server.Addr(port))
	s, err := ln.Accept()
	require.NoError(t, err)
	lab.Server.Reboot()
	_, err = ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestRebootKeepsFaults(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	lab.Rate(1_000_000)
	lab.Drop()
	lab.Server.Reboot()
	ln := lab.Server.Listen(t, port)
	dialSilence(t, lab, lab.Server.Addr(port))
	lab.Heal()
	go echo(ln)
	require.NoError(t, exchange(dial(t, lab, lab.Server.Addr(port)), soon))
}

func TestResetConnsResetsAtOnce(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	go echo(lab.Server.Listen(t, port))
	c := dial(t, lab, lab.Server.Addr(port))
	require.NoError(t, exchange(c, soon))
	lab.Server.ResetConns()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.NoError(t, exchange(dial(t, lab, lab.Server.Addr(port)), soon))
}

func TestDeafServerClosesItsWindowAndLives(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	d := lab.Server.ListenDeaf(t, port)
	c := dial(t, lab, lab.Server.Addr(port))
	require.NoError(t, c.(*net.TCPConn).SetWriteBuffer(16<<10))

	// Write until nothing moves any more.
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
	n, err := c.Write(make([]byte, 16<<20))
	requireTimeout(t, err)
	require.Less(t, n, 1<<20)
	require.Zero(t, d.Received())

	// Its kernel still answers: probes arrive and acknowledgements come back.
	before := lab.Client.Traffic()
	require.Eventually(t, func() bool {
		now := lab.Client.Traffic()
		return now.SentPackets > before.SentPackets && now.ReceivedPackets > before.ReceivedPackets
	}, soon, 10*time.Millisecond)

	d.Hear()
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(soon)))
	m, err := c.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.EqualValues(t, n+m, d.Received())
}

func TestSocketsTellTheirStates(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, port)
	for _, addr := range []string{lab.Server.Addr(port), lab.Server.Addr6(port)} {
		c := dial(t, lab, addr)
		s, err := ln.Accept()
		require.NoError(t, err)
		conns := lab.Client.Conns()
		require.Len(t, conns, 1)
		assert.Equal(t, netlab.Established, conns[0].State)
		assert.Equal(t, addr, conns[0].Remote.String())
		assert.Equal(t, c.LocalAddr().String(), conns[0].Local.String())
		all := lab.Server.Sockets()
		require.Len(t, all, 2, "%v", all)
		require.Len(t, lab.Server.Conns(), 1)

		_, err = s.Write([]byte("xyz"))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return lab.Client.Conns()[0].Unread == 3 }, soon, time.Millisecond)
		require.NoError(t, s.Close())
		require.Eventually(t, func() bool { return lab.Client.Conns()[0].State == netlab.CloseWait }, soon, time.Millisecond)
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool { return len(lab.Client.Conns()) == 0 }, soon, time.Millisecond)
	}
}

func TestDoReturnsTheThreadEvenAfterAPanicAndNests(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	inode := func() (ns string) {
		out, err := exec.Command("readlink", "/proc/self/ns/net").Output()
		require.NoError(t, err)
		return string(out)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := inode()
	assert.PanicsWithValue(t, "x", func() { _ = lab.Client.Do(func() error { panic("x") }) })
	assert.Equal(t, home, inode())
	require.NoError(t, lab.Client.Do(func() error {
		client := inode()
		assert.NotEqual(t, home, client)
		err := lab.Server.Do(func() error {
			assert.NotEqual(t, client, inode())
			return nil
		})
		assert.Equal(t, client, inode())
		return err
	}))
	assert.Equal(t, home, inode())

	leave, err := lab.Client.Enter()
	require.NoError(t, err)
	assert.NotEqual(t, home, inode())
	leave()
	assert.Equal(t, home, inode())
}

// TestHelperEcho is a server in a process of its own.
func TestHelperEcho(t *testing.T) {
	netlab.HelperMain(t, func(args []string) int {
		ln, err := net.Listen("tcp", args[0])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("ready")
		echo(ln)
		return 0
	})
}

func startEcho(t *testing.T, h *netlab.Host) *netlab.Process {
	t.Helper()
	p := h.Helper(t, "TestHelperEcho", ":"+strconv.Itoa(port))
	line, err := p.Stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return p
}

// connected is a lab with a connection to an echo server in a process of its own.
func connected(t *testing.T) (*netlab.Lab, *netlab.Process, net.Conn) {
	t.Helper()
	lab := netlab.New(t)
	p := startEcho(t, lab.Server)
	c := dial(t, lab, lab.Server.Addr(port))
	require.NoError(t, exchange(c, soon))
	return lab, p, c
}

func TestStoppedProcessIsSilentWhileItsKernelAcknowledges(t *testing.T) {
	t.Parallel()
	lab, p, c := connected(t)

	p.Stop()
	silent(t, c)
	require.Zero(t, lab.Client.Conns()[0].Unacked)
	require.NoError(t, dialError(t, lab, lab.Server.Addr(port)), "its kernel still accepts")

	p.Continue()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
	_, err := io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, exchange(c, soon))
}

func TestKilledProcessEndsItsConnections(t *testing.T) {
	t.Parallel()
	lab, p, c := connected(t)
	p.Kill()
	require.ErrorIs(t, exchange(c, soon), io.EOF)
	require.ErrorIs(t, dialError(t, lab, lab.Server.Addr(port)), syscall.ECONNREFUSED)
}

func TestRebootKillsProcessesWithoutAFIN(t *testing.T) {
	t.Parallel()
	lab, p, c := connected(t)
	lab.Server.Reboot()
	require.Error(t, p.Wait())
	require.ErrorIs(t, exchange(c, soon), syscall.ECONNRESET)
}

// TestHelperLab is a program with a lab that never cleans up.
func TestHelperLab(t *testing.T) {
	netlab.HelperMain(t, func([]string) int {
		lab, err := netlab.Start(netlab.Config{NAT: true})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		p := lab.Server.Start(t, exec.Command("sleep", "1000"))
		for _, h := range []*netlab.Host{lab.Client, lab.Router, lab.Server} {
			_ = h.Do(func() error {
				out, err := exec.Command("readlink", "/proc/self/ns/net").Output()
				fmt.Print(string(out))
				return err
			})
		}
		fmt.Println(p.Pid())
		select {}
	})
}

func TestKilledProgramLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t) // for the process; what it leaves would be outside
	links, mounts := hostLinks(t), nsMounts(t)
	p := lab.Client.Helper(t, "TestHelperLab")
	var lines []string
	for range 4 {
		line, err := p.Stdout.ReadString('\n')
		require.NoError(t, err)
		lines = append(lines, strings.TrimSpace(line))
	}
	child, err := strconv.Atoi(lines[3])
	require.NoError(t, err)

	// What nobody holds is gone; a number that is seen later is somebody else's.
	require.ElementsMatch(t, []int{p.Pid(), child}, holders(t, lines[:3]))
	p.Kill()
	require.Eventually(t, func() bool { return syscall.Kill(child, 0) == syscall.ESRCH }, soon, 10*time.Millisecond)
	assert.Equal(t, links, hostLinks(t))
	assert.Equal(t, mounts, nsMounts(t))
}

// hostLinks are the names of the links outside of all labs.
func hostLinks(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	require.NoError(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

// nsMounts are the mounts that keep namespaces alive.
func nsMounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var mounts []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " - nsfs ") {
			mounts = append(mounts, line)
		}
	}
	return mounts
}

// holders are the processes that are in one of the namespaces or have it open.
func holders(t *testing.T, namespaces []string) []int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	require.NoError(t, err)
	files, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	require.NoError(t, err)
	var pids []int
	for _, path := range append(tasks, files...) {
		target, err := os.Readlink(path)
		if err != nil || !slices.Contains(namespaces, target) {
			continue // it may have ended meanwhile
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		require.NoError(t, err)
		if !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestStartIsQuick(t *testing.T) {
	const n = 10
	var total time.Duration
	for range n {
		start := time.Now()
		lab, err := netlab.Start(netlab.Config{})
		if err != nil {
			t.Skip(err)
		}
		total += time.Since(start)
		lab.Close()
	}
	t.Logf("a lab starts in %v", total/n)
	assert.Less(t, total/n, time.Second)
}

func TestManyLabsStartTogether(t *testing.T) {
	t.Parallel()
	const n = 16
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			lab := netlab.NewWith(t, netlab.Config{Servers: 3, NAT: true})
			ln := lab.Servers[2].Listen(t, port)
			go echo(ln)
			c, err := lab.Client.Dial(t.Context(), nil, lab.Servers[2].Addr6(port))
			if assert.NoError(t, err) {
				assert.NoError(t, exchange(c, soon))
				assert.NoError(t, c.Close())
			}
		})
	}
	wg.Wait()
	t.Logf("%d labs with three servers and NAT: %v", n, time.Since(start))
}

// TestHelperPanic is a test that panics in a lab.
func TestHelperPanic(t *testing.T) {
	if os.Getenv("NETLAB_PANIC") == "" {
		t.Skip("this is a process that another test starts")
	}
	var lab *netlab.Lab
	t.Cleanup(func() { fmt.Println("afterwards:", lab.Client.Do(func() error { return nil })) })
	lab = netlab.New(t)
	_ = lab.Client.Do(func() error { panic("on purpose") })
}

func TestPanickingTestCleansUp(t *testing.T) {
	t.Parallel()
	netlab.New(t) // or skip
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperPanic$")
	cmd.Env = append(os.Environ(), "NETLAB_PANIC=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "panic: on purpose")
	require.Contains(t, string(out), "afterwards: netlab: client: the lab is closed")
}
