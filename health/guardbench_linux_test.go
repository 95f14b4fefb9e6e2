package health

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// BenchmarkSweep looks at 1,000 connections that are all alive.
func BenchmarkSweep(b *testing.B) {
	const n = 1000
	conns, _ := crowd(b, n)
	g := newGuard(b, GuardConfig{})
	g.events, _ = newEpoll()
	g.started = true // the benchmark is the goroutine
	p, err := NewPolicy(PolicyConfig{DetectWithin: time.Hour, FreshFor: -1})
	require.NoError(b, err)
	watches := make([]*Watch, n)
	for i, c := range conns {
		watches[i], err = g.Watch(c, p, func(*Watch) {})
		require.NoError(b, err)
	}
	l := newLoop(g)
	b.ReportAllocs()
	for b.Loop() {
		for {
			l.batchAt = 0
			l.sweep()
			if l.from == 0 {
				break
			}
		}
	}
	require.Empty(b, l.byID)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/conn")
	runtime.KeepAlive(watches)
}

const (
	guardBenchConns  = 10_000
	guardBenchPeers  = "HOLDFAST_GUARD_BENCH_PEERS"
	guardBenchPeriod = 5 * time.Second // in which each connection in use makes a round trip
)

// TestGuardBenchPeers is the process that the connections of BenchmarkGuard10k
// lead to.
func TestGuardBenchPeers(t *testing.T) {
	if os.Getenv(guardBenchPeers) == "" {
		t.Skip("this is a process that a benchmark starts")
	}
	for i := range 10 { // so many connections aren't usually to one address
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", 11+i))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(ln.Addr(), " ")
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
			}
		}()
	}
	fmt.Println()
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// BenchmarkGuard10k measures what a Guard costs that watches 10,000 connections
// to ten addresses under DetectWithin = 5 s, half of which make a round trip
// every 5 s. It runs once with keep-alive as package dial sets it, which keeps
// the connections fresh, and once with package net's, so that the Guard itself
// must ask every one within each FreshFor of 2.5 s.
//
// The Guard's goroutine is locked to a thread, and core-% is that thread's time
// on a processor, the kernel's part included, as /proc/<pid>/task/<tid>/schedstat
// has it. It doesn't contain what the kernel does by timer and interrupt, for
// keep-alive as for probes. process-% is the median of what the whole process
// takes with the Guard less that without it, in turns, and has the noise of the
// load's and the machine's other work.
func BenchmarkGuard10k(b *testing.B) {
	addrs := startGuardBenchPeers(b)
	conns := make([]*net.TCPConn, guardBenchConns)
	for i := range conns {
		c, err := net.Dial("tcp", addrs[i%len(addrs)])
		require.NoError(b, err)
		conns[i] = c.(*net.TCPConn)
		b.Cleanup(func() { c.Close() })
	}
	for name, ka := range map[string]sockopt.KeepAlive{
		"keepalive=2s":  {Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		"keepalive=15s": {Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9},
	} {
		b.Run(name, func(b *testing.B) {
			for _, c := range conns {
				require.NoError(b, sockopt.Control(c, func(fd uintptr) error {
					return errors.Join(sockopt.SetKeepAlive(fd, ka), sockopt.SetUserTimeout(fd, 3*detectWithin))
				}))
			}
			benchmarkGuard(b, conns)
		})
	}
}

func startGuardBenchPeers(b *testing.B) (addrs []string) {
	b.Helper()
	exe, err := os.Executable()
	require.NoError(b, err)
	cmd := exec.Command(exe, "-test.run=^TestGuardBenchPeers$")
	cmd.Env = append(os.Environ(), guardBenchPeers+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	line := make([]byte, 1000)
	n := 0
	for n == 0 || line[n-1] != '\n' {
		m, err := stdout.Read(line[n:])
		require.NoError(b, err)
		n += m
	}
	return strings.Fields(string(line[:n]))
}

// guardBenchKernel counts, and locks the Guard's goroutine to its thread.
type guardBenchKernel struct {
	kernel
	thread      atomic.Int64
	looks, asks atomic.Int64
}

func (k *guardBenchKernel) info(w *Watch, info *sockopt.Info) error {
	if k.thread.Load() == 0 {
		runtime.LockOSThread()
		k.thread.Store(int64(syscall.Gettid()))
	}
	k.looks.Add(1)
	return k.kernel.info(w, info)
}

func (k *guardBenchKernel) ask(w *Watch) error {
	k.asks.Add(1)
	return k.kernel.ask(w)
}

// guardUse is what has been used up so far: of the thread only if there is a
// Guard.
type guardUse struct {
	at              time.Time
	thread, process time.Duration
	looks, asks     int64
}

func (k *guardBenchKernel) use(b *testing.B) (u guardUse) {
	b.Helper()
	u.at = time.Now()
	var r syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	u.process = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	if k != nil {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/schedstat", k.thread.Load()))
		require.NoError(b, err)
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		require.NoError(b, err)
		u.thread = time.Duration(n)
		u.looks, u.asks = k.looks.Load(), k.asks.Load()
	}
	return u
}

// guardBench is the measuring of one kind of connections.
type guardBench struct {
	*testing.B
	conns  []*net.TCPConn
	policy *Policy
	load   *guardBenchLoad

	with, without, thread, asks, perLook, allocs []float64
	goroutines, threads                          int // more than without
}

const guardBenchWindow = 4 * time.Second

// round measures once without a Guard and once with one.
func (b *guardBench) round() {
	goroutines, threads := runtime.NumGoroutine(), guardBenchThreads(b.B)
	before := (*guardBenchKernel)(nil).use(b.B)
	time.Sleep(guardBenchWindow)
	after := (*guardBenchKernel)(nil).use(b.B)
	b.without = append(b.without, share(after.process-before.process, before, after))

	k := &guardBenchKernel{kernel: newSockets()}
	g, err := NewGuard(GuardConfig{})
	require.NoError(b, err)
	g.newKernel = func() kernel { return k }
	watches := make([]*Watch, len(b.conns))
	for i, c := range b.conns {
		watches[i], err = g.Watch(c, b.policy, func(*Watch) {})
		require.NoError(b, err)
	}
	time.Sleep(2 * time.Second) // until the first round is over
	before = k.use(b.B)
	time.Sleep(guardBenchWindow)
	after = k.use(b.B)
	b.with = append(b.with, share(after.process-before.process, before, after))
	b.thread = append(b.thread, share(after.thread-before.thread, before, after))
	b.asks = append(b.asks, float64(after.asks-before.asks)/after.at.Sub(before.at).Seconds())
	b.perLook = append(b.perLook, float64(after.thread-before.thread)/float64(after.looks-before.looks))
	b.goroutines = max(b.goroutines, runtime.NumGoroutine()-goroutines)
	b.threads = max(b.threads, guardBenchThreads(b.B)-threads)

	b.load.pause.Store(true)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	mallocs := m.Mallocs
	began := time.Now()
	time.Sleep(guardBenchWindow)
	runtime.ReadMemStats(&m)
	every, _ := (&loop{guard: g, events: g.events}).gather()
	b.allocs = append(b.allocs, float64(m.Mallocs-mallocs)/(float64(time.Since(began))/float64(every)))
	b.load.pause.Store(false)

	for _, w := range watches {
		require.Contains(b, []State{Alive, Quiet}, w.State())
	}
	require.NoError(b, g.Close())
}

// share is d in percent of the time between.
func share(d time.Duration, before, after guardUse) float64 {
	return 100 * float64(d) / float64(after.at.Sub(before.at))
}

func benchmarkGuard(b *testing.B, conns []*net.TCPConn) {
	p, err := NewPolicy(PolicyConfig{DetectWithin: detectWithin})
	require.NoError(b, err)
	m := &guardBench{B: b, conns: conns, policy: p, load: &guardBenchLoad{}}
	stop := m.load.start(b, conns[:len(conns)/2])
	for b.Loop() {
		for range 3 {
			m.round()
		}
	}
	stop()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(m.thread), "core-%")
	b.ReportMetric(median(m.with)-median(m.without), "process-%")
	b.ReportMetric(median(m.without), "load-%")
	b.ReportMetric(median(m.perLook), "ns/look")
	b.ReportMetric(median(m.asks), "asks/s")
	b.ReportMetric(median(m.allocs), "allocs/sweep")
	b.ReportMetric(float64(m.goroutines)/float64(len(conns)), "goroutines/conn")
	b.ReportMetric(float64(m.threads)/float64(len(conns)), "threads/conn")
}

// guardBenchLoad makes round trips.
type guardBenchLoad struct {
	pause atomic.Bool
}

// start has each connection make a round trip every guardBenchPeriod.
func (l *guardBenchLoad) start(b *testing.B, conns []*net.TCPConn) (stop func()) {
	const batches = 500
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(guardBenchPeriod / batches)
		defer ticker.Stop()
		message := make([]byte, 16)
		for i := 0; ; i = (i + 1) % batches {
			select {
			case <-end:
				return
			case <-ticker.C:
			}
			if l.pause.Load() {
				continue
			}
			batch := conns[i*len(conns)/batches : (i+1)*len(conns)/batches]
			for _, c := range batch {
				if _, err := c.Write(message); err != nil {
					b.Error(err)
				}
			}
			for _, c := range batch {
				if _, err := io.ReadFull(c, message); err != nil {
					b.Error(err)
				}
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

func guardBenchThreads(b *testing.B) int {
	b.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(b, err)
	return len(tasks)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
