package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// options sets socket options on c.
func options(t testing.TB, c net.Conn, set func(fd uintptr) error) {
	t.Helper()
	require.NoError(t, sockopt.Control(c, set))
}

func keepAlive(fd uintptr) error {
	return sockopt.SetKeepAlive(fd, sockopt.KeepAlive{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1})
}

// distant returns both ends of a connection between the hosts of a lab.
func distant(t *testing.T, lab *netlab.Lab) (c, peer net.Conn) {
	t.Helper()
	ln := lab.Server.Listen(t, 6379)
	c, err := lab.Client.Dial(timeout(t, within), nil, lab.Server.Addr(6379))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	peer, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { peer.Close() })
	return c, peer
}

func TestSilenceBecomesADeathByKeepAlive(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		t.Parallel()
		lab := netlab.New(t)
		c, _ := distant(t, lab)
		options(t, c, keepAlive)
		w, died := watch(t, g, c)
		lab.Drop()
		require.NoError(t, w.Sniff(), "nothing local can know it yet")
		receive(t, died, "the callback")
		assert.ErrorIs(t, w.Cause(), syscall.ETIMEDOUT)
		assert.Equal(t, Path, Classify(w.Cause()))
		_, err := c.Read(make([]byte, 1))
		assert.ErrorIs(t, err, syscall.ETIMEDOUT, "left for the owner")
	})
}

func TestSilenceBecomesADeathByUserTimeout(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c, _ := distant(t, lab)
	options(t, c, func(fd uintptr) error { return sockopt.SetUserTimeout(fd, 500*time.Millisecond) })
	g := newGuard(t, GuardConfig{})
	w, died := watch(t, g, c)
	lab.Drop()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1)) // takes the errno away
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	receive(t, died, "the callback")
	assert.ErrorIs(t, w.Cause(), syscall.ETIMEDOUT)
}

func TestUnreachableIsNoDeathWhileTheConnectionMayHeal(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c, peer := distant(t, lab)
	options(t, c, func(fd uintptr) error { return sockopt.SetRecvErr(fd, true) })
	g := newGuard(t, GuardConfig{})
	w, died := watch(t, g, c)
	lab.Unreachable()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.EHOSTUNREACH)
	assert.Equal(t, Path, Classify(err))
	quiet(t, g, w, died)

	eventually(t, "Sniff meets such an error", func() bool { return w.Sniff() != nil })
	assert.False(t, w.Dead())

	lab.Heal()
	_, err = io.ReadFull(peer, make([]byte, 1))
	require.NoError(t, err)
	quiet(t, g, w, died)
}

func TestUnreachableDialIsPath(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	lab.Unreachable()
	_, err := lab.Client.Dial(timeout(t, within), nil, lab.Server.Addr(1))
	require.ErrorIs(t, err, syscall.EHOSTUNREACH)
	assert.Equal(t, Path, Classify(err))
	assert.True(t, SafeToRetry(err))
}

// openssl starts a TLS 1.3 server that sends session tickets after the
// handshake, which nobody reads: Go's own sends them before its end.
func openssl(t *testing.T, start func(*exec.Cmd)) (port string) {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl: ", err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	out, err := exec.Command(bin, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
		"-subj", "/CN=example.com", "-days", "2", "-keyout", key, "-out", cert).CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.Command(bin, "s_server", "-accept", "0.0.0.0:0", "-cert", cert, "-key", key, "-tls1_3")
	in, stdin, err := os.Pipe() // it ends with its input
	require.NoError(t, err)
	t.Cleanup(func() { in.Close(); stdin.Close() })
	cmd.Stdin = in
	stdout, w, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout = w
	start(cmd)
	w.Close()
	t.Cleanup(func() { stdout.Close() })
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "ACCEPT "); ok {
			_, port, err := net.SplitHostPort(rest)
			require.NoError(t, err)
			go io.Copy(io.Discard, stdout)
			return port
		}
	}
	t.Fatal("openssl s_server doesn't listen")
	return ""
}

// withTickets makes a TLS connection whose tickets have arrived unread.
func withTickets(t *testing.T, raw net.Conn) *tls.Conn {
	t.Helper()
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, c.HandshakeContext(timeout(t, within)))
	eventually(t, "the tickets arrive", func() bool {
		var n int
		options(t, raw, func(fd uintptr) error { n, _ = sockopt.Peek(fd); return nil })
		return n == 1
	})
	return c
}

func TestTicketsAreNoEvidenceAndHideNoDeath(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		t.Parallel()
		var server *exec.Cmd
		port := openssl(t, func(cmd *exec.Cmd) {
			server = cmd
			require.NoError(t, cmd.Start())
		})
		kill := func() { server.Process.Kill(); server.Wait() }
		t.Cleanup(kill)
		raw, err := net.Dial("tcp", "127.0.0.1:"+port)
		require.NoError(t, err)
		defer raw.Close()
		c := withTickets(t, raw)

		w, died := watch(t, g, c)
		require.NoError(t, w.Sniff())
		require.NoError(t, TCP(t.Context(), c))
		quiet(t, g, w, died)
		bare, _ := watch(t, g, raw)
		require.ErrorIs(t, bare.Sniff(), ErrUnread, "the trap")

		kill()
		receive(t, died, "the callback")
		assert.Equal(t, Conn, Classify(w.Sniff()), "%v", w.Sniff())
		assert.Equal(t, Conn, Classify(TCP(t.Context(), c)))
		runtime.KeepAlive(bare)
	})
}

func TestTicketsHideNoSilence(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	port := openssl(t, func(cmd *exec.Cmd) { lab.Server.Start(t, cmd) })
	raw, err := lab.Client.Dial(timeout(t, within), nil, net.JoinHostPort(lab.Server.IPv4().String(), port))
	require.NoError(t, err)
	defer raw.Close()
	options(t, raw, keepAlive)
	c := withTickets(t, raw)
	g := newGuard(t, GuardConfig{PollInterval: time.Hour, ForcePolling: true})
	w, _ := watch(t, g, c)
	lab.Drop()
	require.NoError(t, w.Sniff())
	eventually(t, "keep-alive gives up", func() bool { return w.Sniff() != nil })
	assert.ErrorIs(t, w.Sniff(), syscall.ETIMEDOUT)
	assert.True(t, w.Dead())
}

func TestCallbacksComeInTheOrderOfTheDeaths(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	begun, release := make(chan bool), make(chan bool)
	gate, gatePeer := pair(t)
	hold, err := g.Watch(gate, nil, func(*Watch) { close(begun); <-release })
	require.NoError(t, err)
	const n = 300 // more than one batch
	var order []int
	done := make(chan bool)
	watches := make([]*Watch, n)
	peers := make([]*net.TCPConn, n)
	for i := range n {
		c, peer := pair(t)
		peers[i] = peer
		watches[i], err = g.Watch(c, nil, func(*Watch) {
			if order = append(order, i); len(order) == n {
				close(done)
			}
		})
		require.NoError(t, err)
	}
	require.NoError(t, gatePeer.Close())
	receive(t, begun, "the callback that holds the others up")
	for i := range n {
		require.NoError(t, peers[i].Close())
		// A busy kernel may deliver the next one's first.
		eventually(t, "the FIN", func() bool { return sniffed(watches[i]) != nil })
	}
	close(release)
	receive(t, done, "all callbacks")
	assert.True(t, slices.IsSorted(order), "%v", order)
	runtime.KeepAlive(hold)
	runtime.KeepAlive(watches)
}

// crowd returns both ends of many connections, as many as n if the limit of
// descriptors can be raised.
func crowd(t testing.TB, n int) (conns, peers []*net.TCPConn) {
	t.Helper()
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	if need := uint64(2*n + 500); old.Cur < need {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: need, Max: max(old.Max, need)}); err != nil {
			n = int(old.Cur)/2 - 250
			t.Logf("only %d connections: %v", n, err)
		} else {
			t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		conns = append(conns, c.(*net.TCPConn))
		peer, err := ln.Accept()
		require.NoError(t, err)
		peers = append(peers, peer.(*net.TCPConn))
	}
	t.Cleanup(func() {
		for i := range conns {
			conns[i].Close()
			peers[i].Close()
		}
	})
	return conns, peers
}

// massClose watches all conns, closes all peers, and returns how long after the
// last close the last callback came.
func massClose(t testing.TB, g *Guard, conns, peers []*net.TCPConn) time.Duration {
	t.Helper()
	watches := make([]*Watch, len(conns))
	calls := make([]int, len(conns))
	left := len(conns)
	done := make(chan time.Time, 1)
	var err error
	for i, c := range conns {
		watches[i], err = g.Watch(c, nil, func(*Watch) {
			if calls[i]++; calls[i] > 1 {
				t.Error("called twice")
			}
			if left--; left == 0 {
				done <- time.Now()
			}
		})
		require.NoError(t, err)
	}
	for i, peer := range peers {
		if i%2 == 0 {
			peer.SetLinger(0)
		}
		peer.Close()
	}
	last := time.Now()
	end := receive(t, done, "all callbacks")
	for _, w := range watches {
		if !w.Dead() || w.Stop() {
			t.Error("alive")
		}
	}
	return max(0, end.Sub(last))
}

func TestTenThousandDeathsAtOnceAreReported(t *testing.T) {
	conns, peers := crowd(t, 10_000)
	g := newGuard(t, GuardConfig{})
	t.Logf("%d deaths, the last callback %v after the last", len(conns), massClose(t, g, conns, peers))
	assert.Zero(t, g.used())
}

func TestAWatchedConnectionCostsLittleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes sizes")
	}
	conns, _ := crowd(t, 10_000)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	g := newGuard(t, GuardConfig{})
	watches := make([]*Watch, len(conns))
	dead := func(*Watch) {}
	goroutines, before := runtime.NumGoroutine(), heap()
	var err error
	for i, c := range conns {
		watches[i], err = g.Watch(c, nil, dead)
		require.NoError(t, err)
	}
	per := float64(heap()-before) / float64(len(conns))
	t.Logf("%.0f B of heap a connection", per)
	assert.LessOrEqual(t, per, 330.0)
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2) // the Guard's, and maybe one of the runtime's for cleanups
	runtime.KeepAlive(watches)
}

func TestNothingOnTheHotPathAllocates(t *testing.T) {
	g := newGuard(t, GuardConfig{})
	for name, c := range map[string]net.Conn{"bare": first(pair(t)), "TLS": tls.Client(first(pair(t)), &tls.Config{})} {
		w, _ := watch(t, g, c)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			if w.Sniff() != nil || w.Dead() {
				t.Error("dead")
			}
		}), name)
	}
}

func first(c, _ *net.TCPConn) *net.TCPConn { return c }

func TestWatchingLeavesHTTPConnectionsAlone(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	g := newGuard(t, GuardConfig{})
	var watched []net.Conn
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			watched = append(watched, c)
			_, err = g.Watch(c, nil, nil)
		}
		return c, err
	}}
	defer tr.CloseIdleConnections()
	client := http.Client{Transport: tr}
	for range 50 {
		resp, err := client.Get(s.URL)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	// A transport that isn't told in 50 ms that all was written dials again.
	require.Less(t, len(watched), 10, "they were reused")
	for _, c := range watched {
		require.NoError(t, g.Cause(c))
	}
}
