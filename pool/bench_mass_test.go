package pool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkMassClose has 10,000 peers close at once and reports how long after
// the last close the last connection was evicted. The peers are a process of
// their own: both ends together would be more files than most systems allow.
func BenchmarkMassClose(b *testing.B) {
	const n = 10_000
	var closing, evicted float64
	rounds := 0
	for b.Loop() {
		rounds++
		peers := startPeers(b, n)
		p, err := New(Config[net.Conn]{Open: peers.dial, MaxConns: n, MaxConnIdleTime: -1, MaxConcurrentOpens: 64})
		require.NoError(b, err)
		held := make([]Conn[net.Conn], n)
		for i := range held {
			held[i], err = p.Acquire(context.Background())
			require.NoError(b, err)
		}
		for _, c := range held {
			c.Release()
		}
		first, last := peers.closeAll(b)
		for p.Stat().Idle > 0 {
			time.Sleep(100 * time.Microsecond) // how fine the result is
		}
		closing += last.Sub(first).Seconds() * 1e3
		evicted += max(0, time.Since(last).Seconds()*1e3)
		require.NoError(b, p.Close(context.Background()))
	}
	b.ReportMetric(closing/float64(rounds), "closing-ms")
	b.ReportMetric(evicted/float64(rounds), "evicted-after-ms")
	b.ReportMetric(0, "ns/op")
}

// peersProcess is a child process that accepts connections, and closes them
// when it is told to.
type peersProcess struct {
	addr  string
	stdin io.WriteCloser
	out   *bufio.Scanner
}

func startPeers(b *testing.B, n int) *peersProcess {
	cmd := exec.Command(os.Args[0], "-test.run=^TestPeersProcess$")
	cmd.Env = append(os.Environ(), "HOLDFAST_PEERS="+strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	p := &peersProcess{stdin: stdin, out: bufio.NewScanner(stdout)}
	require.True(b, p.out.Scan())
	p.addr = p.out.Text()
	return p
}

func (p *peersProcess) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.addr)
}

// closeAll returns when the process closed the first and the last connection.
func (p *peersProcess) closeAll(b *testing.B) (first, last time.Time) {
	_, err := io.WriteString(p.stdin, "close\n")
	require.NoError(b, err)
	require.True(b, p.out.Scan())
	var from, to int64
	_, err = fmt.Sscan(p.out.Text(), &from, &to)
	require.NoError(b, err)
	return time.Unix(0, from), time.Unix(0, to)
}

// TestPeersProcess is what startPeers starts.
func TestPeersProcess(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("HOLDFAST_PEERS"))
	if err != nil {
		t.Skip("this is a process that a benchmark starts")
	}
	p := newPeers(t, n)
	fmt.Println(p.ln.Addr())
	bufio.NewReader(os.Stdin).ReadString('\n')
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = <-p.conns
	}
	first := time.Now()
	for _, c := range conns {
		c.Close()
	}
	fmt.Println(first.UnixNano(), time.Now().UnixNano())
}
