package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// soakOrders is what the test tells its client process.
type soakOrders struct {
	Servers  []string // addresses without ports
	Conns    int
	Bulk     int           // bytes of an upload or download at most
	MaxPause time.Duration // of the Guard's goroutine, at the worst points; 0: none
}

// soakReport is what the client process answers in the end.
type soakReport struct {
	Conns, Churned                   int
	Suspicions, SlowReaders          int64
	Looks, Asks, Shields, Restores   int64
	Severs                           int64
	Canaries, CanariesThatWorked     int64
	Checks, Doubts, Resets           int64
	RoundTrips, Bytes, UnreadForLong int64
	Pauses                           int64
	Paused                           time.Duration
	LongestSilence, LongestRoundTrip time.Duration
	MostUnanswered                   int
	Wrong                            []string // each one a defect
}

func (r *soakReport) add(o soakReport) {
	r.Conns += o.Conns
	r.Churned += o.Churned
	r.Suspicions += o.Suspicions
	r.SlowReaders += o.SlowReaders
	r.Looks += o.Looks
	r.Asks += o.Asks
	r.Shields += o.Shields
	r.Restores += o.Restores
	r.Severs += o.Severs
	r.Canaries += o.Canaries
	r.CanariesThatWorked += o.CanariesThatWorked
	r.Checks += o.Checks
	r.Doubts += o.Doubts
	r.Resets += o.Resets
	r.RoundTrips += o.RoundTrips
	r.Bytes += o.Bytes
	r.UnreadForLong += o.UnreadForLong
	r.Pauses += o.Pauses
	r.Paused += o.Paused
	r.LongestSilence = max(r.LongestSilence, o.LongestSilence)
	r.LongestRoundTrip = max(r.LongestRoundTrip, o.LongestRoundTrip)
	r.MostUnanswered = max(r.MostUnanswered, o.MostUnanswered)
	r.Wrong = append(r.Wrong, o.Wrong...)
}

func (r *soakReport) String() string {
	return fmt.Sprintf("%d connections and %d short ones; %d round trips, %d MB, %d uploads unread for > %v; "+
		"%d looks, %d asks, %d shields, %d restores; %d suspicions (≤ %d unanswered, silent ≤ %v), %d slow readers, "+
		"%d of %d canaries worked, %d checks, %d doubts, %d resets; the guard stood still %d times, %v; "+
		"longest round trip %v; severed %d; wrong: %d",
		r.Conns, r.Churned, r.RoundTrips, r.Bytes>>20, r.UnreadForLong, detectWithin,
		r.Looks, r.Asks, r.Shields, r.Restores, r.Suspicions, r.MostUnanswered, r.LongestSilence.Round(time.Millisecond), r.SlowReaders,
		r.CanariesThatWorked, r.Canaries, r.Checks, r.Doubts, r.Resets, r.Pauses, r.Paused.Round(time.Millisecond),
		r.LongestRoundTrip.Round(time.Millisecond), r.Severs, len(r.Wrong))
}

func TestSoakClientProcess(t *testing.T) {
	netlab.HelperMain(t, func(args []string) int {
		var c soakClient
		if err := json.Unmarshal([]byte(args[0]), &c.orders); err != nil {
			fmt.Fprintln(os.Stderr, "soak client:", err)
			return 2
		}
		if err := c.run(); err != nil {
			c.wrong("%v", err)
		}
		_ = json.NewEncoder(os.Stdout).Encode(&c.report)
		return 0
	})
}

// soakClient is a program with many connections under one Guard.
type soakClient struct {
	orders soakOrders
	guard  *Guard
	policy *Policy
	conns  []*soakConn

	ctx     context.Context // the load's
	stop    func()
	workers sync.WaitGroup

	trips, bytes, unread             atomic.Int64
	canaries, worked, resets, checks atomic.Int64
	doubts, churned                  atomic.Int64

	mu     sync.Mutex
	report soakReport
}

func (c *soakClient) wrong(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.report.Wrong) < 20 {
		c.report.Wrong = append(c.report.Wrong, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// run opens the connections, puts load on them until a line comes in, and looks
// at what is left of them.
func (c *soakClient) run() error {
	if err := c.makeGuard(); err != nil {
		return err
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	defer c.stop()
	for i := range c.orders.Conns {
		conn, err := c.open(i)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		c.conns = append(c.conns, conn)
	}
	fmt.Println("ready")
	for _, conn := range c.conns {
		c.workers.Go(func() { c.work(conn) })
	}
	for _, f := range []func(){c.churn, c.check, c.doubt} {
		c.workers.Go(f)
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	c.finish()
	return nil
}

func (c *soakClient) makeGuard() (err error) {
	if c.guard, err = NewGuard(GuardConfig{}); err != nil {
		return err
	}
	c.guard.newKernel = func() kernel {
		k := &soakKernel{kernel: newSockets(), client: c}
		k.plan()
		return k
	}
	c.policy, err = NewPolicy(PolicyConfig{DetectWithin: detectWithin, Dial: c.canary, StateChanged: c.changed})
	return err
}

func (c *soakClient) canary(ctx context.Context, network, address string) (net.Conn, error) {
	c.canaries.Add(1)
	d := net.Dialer{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) (err error) {
		return errors.Join(rc.Control(func(fd uintptr) { err = sockopt.HalfOpen(fd) }), err)
	}}
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		c.worked.Add(1)
	}
	return conn, err
}

// changed counts, and finds false alarms.
func (c *soakClient) changed(s StateChange) {
	c.mu.Lock()
	switch s.To {
	case Suspect:
		c.report.Suspicions++
	case SlowReader:
		c.report.SlowReaders++
	}
	if s.From == Suspect || s.To == Suspect {
		c.report.LongestSilence = max(c.report.LongestSilence, s.Silent)
		c.report.MostUnanswered = max(c.report.MostUnanswered, s.Unanswered)
	}
	c.mu.Unlock()
	if s.Severed {
		c.wrong("%v → %v was %v and ended: %v (silent %v, unanswered %d, severed %v)",
			s.Local, s.Remote, s.From, s.Cause, s.Silent, s.Unanswered, s.Severed)
	}
}

// lost notes a connection that has ended, once.
func (c *soakClient) lost(conn *soakConn, why any) {
	if conn.lost.CompareAndSwap(false, true) {
		c.wrong("%v: %v; cause %v; %v", conn, why, c.guard.Cause(conn.Conn), conn.info())
	}
}

// finish ends the load. Everything must still be alive.
func (c *soakClient) finish() {
	c.stop()
	for _, conn := range c.conns {
		_ = conn.SetDeadline(time.Now().Add(2 * within)) // for what is stuck
	}
	c.workers.Wait()
	for _, conn := range c.conns {
		c.workers.Go(func() {
			if err := c.echo(conn, 1000); err != nil {
				c.lost(conn, err)
			}
		})
	}
	c.workers.Wait()
	if err := c.guard.Close(); err != nil {
		c.wrong("%v", err)
	}
	for _, conn := range c.conns {
		if now, err := conn.timers(); !conn.lost.Load() && (err != nil || now != conn.own) {
			c.wrong("%v had %+v and has %+v: %v", conn, conn.own, now, err)
		}
		conn.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.report
	r.Conns, r.Churned = len(c.conns), int(c.churned.Load())
	r.Canaries, r.CanariesThatWorked = c.canaries.Load(), c.worked.Load()
	r.RoundTrips, r.Bytes, r.UnreadForLong = c.trips.Load(), c.bytes.Load(), c.unread.Load()
	r.Resets, r.Checks, r.Doubts = c.resets.Load(), c.checks.Load(), c.doubts.Load()
}

// soakConn is a connection of the client's.
type soakConn struct {
	net.Conn // tcp or TLS above it
	tcp      *net.TCPConn
	watch    *Watch
	name     string
	own      sockopt.Timers
	role     int  // idle, chat, bulk
	limited  bool // by a user timeout
	lost     atomic.Bool
}

func (c *soakConn) String() string { return c.name }

func (c *soakConn) timers() (t sockopt.Timers, err error) {
	err = sockopt.Control(c.tcp, func(fd uintptr) error { return sockopt.ReadTimers(fd, &t) })
	return t, err
}

// info is what the kernel knows of it, also after it has ended.
func (c *soakConn) info() string {
	var i sockopt.Info
	if err := sockopt.Control(c.tcp, func(fd uintptr) error { return sockopt.TCPInfo(fd, &i) }); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%v, heard %v ago, sent data %v ago, rtt %v, rto %v, %d unacked, %d not sent, %d retransmits in a row, %d in all, backoff %d, %d probes",
		i.State, i.SincePeerHeard(), i.LastDataSent, i.RTT, i.RTO, i.Unacked, i.NotSent, i.Retransmits, i.TotalRetrans, i.Backoff, i.Probes)
}

const (
	soakIdle = iota
	soakChat
	soakBulk
	soakRoles
)

// soakStyles are the options of ten connections: most as package dial sets them.
var soakStyles = [10]string{
	7: "slow readers", // as package dial sets them with Config.SlowReaders
	8: "15/15/9",      // as package net does
	9: "none",
}

// open opens the i'th connection: roles, options and TLS come in all
// combinations.
func (c *soakClient) open(i int) (*soakConn, error) {
	style := soakStyles[i/soakRoles%len(soakStyles)]
	secure := i/soakRoles/len(soakStyles)%2 == 1
	conn, err := c.dial(c.orders.Servers[i%len(c.orders.Servers)], style, secure)
	if err != nil {
		return nil, err
	}
	conn.role = i % soakRoles
	conn.name = fmt.Sprintf("%s connection %v, options %q, TLS %v", [...]string{"idle", "chatting", "bulk"}[conn.role], conn.LocalAddr(), style, secure)
	return conn, nil
}

func (c *soakClient) dial(server, style string, secure bool) (*soakConn, error) {
	port := soakPort
	if secure {
		port = soakTLSPort
	}
	d := net.Dialer{Timeout: within, KeepAlive: -1}
	nc, err := d.Dial("tcp", net.JoinHostPort(server, fmt.Sprint(port)))
	if err != nil {
		return nil, err
	}
	conn := &soakConn{Conn: nc, tcp: nc.(*net.TCPConn), limited: style == ""}
	if err := sockopt.Control(nc, func(fd uintptr) error { return soakOptions(fd, style) }); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	if conn.own, err = conn.timers(); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	if secure {
		conn.Conn = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	if conn.watch, err = c.guard.Watch(conn.Conn, c.policy, nil); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return conn, nil
}

func soakOptions(fd uintptr, style string) error {
	ka := sockopt.KeepAlive{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}
	switch style {
	case "15/15/9":
		return sockopt.SetKeepAlive(fd, sockopt.KeepAlive{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9})
	case "none":
		return nil
	}
	if err := sockopt.SetRTOMax(fd, time.Second); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if style == "slow readers" {
		return sockopt.SetKeepAlive(fd, ka)
	}
	return errors.Join(sockopt.SetKeepAlive(fd, ka), sockopt.SetUserTimeout(fd, 3*detectWithin)) // as package dial does
}

// soakKernel counts, and has the Guard's goroutine stand still where it hurts:
// just before or after a question to the kernel.
type soakKernel struct {
	kernel
	client *soakClient
	next   time.Time // not before
	where  string
	after  bool
}

func (k *soakKernel) plan() {
	k.next = time.Now().Add(rand.N(3 * time.Second))
	k.where = []string{"info", "info", "timers", "ask", "ask", "ask", "shield", "restore"}[rand.IntN(8)]
	k.after = rand.IntN(2) == 0
}

// around does one thing, and stands still if it is time.
func (k *soakKernel) around(where string, count *int64, do func() error) error {
	k.client.mu.Lock()
	*count++
	k.client.mu.Unlock()
	longest := k.client.orders.MaxPause
	late := time.Since(k.next)
	if longest == 0 || late < 0 || where != k.where && late < time.Second { // what is rare may not come
		return do()
	}
	pause := rand.N(longest)
	k.client.mu.Lock()
	k.client.report.Pauses++
	k.client.report.Paused += pause
	k.client.mu.Unlock()
	if !k.after {
		time.Sleep(pause)
	}
	err := do()
	if k.after {
		time.Sleep(pause)
	}
	k.plan()
	return err
}

func (k *soakKernel) info(w *Watch, info *sockopt.Info) error {
	return k.around("info", &k.client.report.Looks, func() error { return k.kernel.info(w, info) })
}

func (k *soakKernel) timers(w *Watch, t *sockopt.Timers) error {
	return k.around("timers", new(int64), func() error { return k.kernel.timers(w, t) })
}

func (k *soakKernel) ask(w *Watch) error {
	return k.around("ask", &k.client.report.Asks, func() error { return k.kernel.ask(w) })
}

func (k *soakKernel) shield(w *Watch, d time.Duration) error {
	return k.around("shield", &k.client.report.Shields, func() error { return k.kernel.shield(w, d) })
}

func (k *soakKernel) restore(w *Watch, t *sockopt.Timers) error {
	return k.around("restore", &k.client.report.Restores, func() error { return k.kernel.restore(w, t) })
}

func (k *soakKernel) rtoMax(w *Watch, d time.Duration) (before time.Duration, err error) {
	err = k.around("rtoMax", new(int64), func() error {
		before, err = k.kernel.rtoMax(w, d)
		return err
	})
	return before, err
}

func (k *soakKernel) sever(w *Watch, sure func(*sockopt.Info) bool) (done bool, err error) {
	err = k.around("sever", &k.client.report.Severs, func() error {
		done, err = k.kernel.sever(w, sure)
		return err
	})
	return done, err
}
