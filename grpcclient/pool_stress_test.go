package grpcclient

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// teller is a server that counts how often it has seen each unary call, by the
// call's token.
type teller struct {
	tester
	mu   sync.Mutex
	seen map[string]int
}

func (s *teller) UnaryCall(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	s.mu.Lock()
	s.seen[string(req.GetPayload().GetBody())]++
	s.mu.Unlock()
	return s.tester.UnaryCall(ctx, req)
}

// cutter is a TCP proxy that can cut its connections.
type cutter struct {
	net.Listener
	to      string
	running sync.WaitGroup
	mu      sync.Mutex
	conns   []net.Conn // of clients
	most    int        // at a time
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	c := &cutter{Listener: listen(t), to: to}
	c.running.Go(func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns = append(c.conns, conn)
			c.most = max(c.most, len(c.conns))
			c.mu.Unlock()
			c.running.Go(func() { c.pass(conn) })
		}
	})
	t.Cleanup(func() {
		c.Close()
		c.cut(func(int) bool { return true })
		c.running.Wait()
	})
	return c
}

func (c *cutter) pass(client net.Conn) {
	defer func() {
		client.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = slices.DeleteFunc(c.conns, func(other net.Conn) bool { return other == client })
	}()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		client.Close()
	})
	_, _ = io.Copy(server, client)
	server.Close()
	back.Wait()
}

// cut ends those connections, with FIN or RST.
func (c *cutter) cut(which func(i int) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, conn := range c.conns {
		if which(i) {
			if rand.N(2) == 0 {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			conn.Close()
			n++
		}
	}
	return n
}

// ledger is what the clients of a stress test know.
type ledger struct {
	p       *Pool
	begun   atomic.Int64
	failed  atomic.Int64
	t       *testing.T
	mu      sync.Mutex
	success map[string]bool // by token of a unary call
}

func (l *ledger) unary(ctx context.Context, token string) {
	l.begun.Add(1)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := testgrpc.NewTestServiceClient(l.p).UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: []byte(token)}})
	l.mu.Lock()
	l.success[token] = err == nil
	l.mu.Unlock()
	l.note(err)
}

// stream talks a while, and ends in one of the ways in which streams end.
func (l *ledger) stream(ctx context.Context) {
	l.begun.Add(1)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := testgrpc.NewTestServiceClient(l.p).FullDuplexCall(ctx)
	if err != nil {
		l.note(err)
		return
	}
	for range rand.N(20) {
		if err = s.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil {
			break // the reason comes from Recv
		}
		if _, err = s.Recv(); err != nil {
			l.note(err)
			return
		}
	}
	if rand.N(3) == 0 {
		return // given up: the context ends
	}
	_ = s.CloseSend()
	if _, err = s.Recv(); err != io.EOF {
		l.note(err)
	}
}

func (l *ledger) note(err error) {
	if err != nil {
		l.failed.Add(1)
		assert.Equal(l.t, codes.Unavailable, status.Code(err), "%v", err)
	}
}

// enough is how many calls are to succeed.
const enough = 100

// goOn reports whether there are to be more calls: on a busy machine most of them
// may be cut off.
func (l *ledger) goOn(end time.Time, inFlight int64) bool {
	now := time.Now()
	return now.Before(end) || l.begun.Load()-l.failed.Load() <= enough+inFlight && now.Before(end.Add(20*time.Second))
}

// Connections are replaced every few milliseconds and cut at random, while calls
// and streams are made all the time.
func TestAPoolUnderStressLosesCountOfNothing(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]PoolConfig{
		"drained":          {MaxConnLifetime: 10 * time.Millisecond, MaxConnLifetimeJitter: 9 * time.Millisecond},
		"drained in haste": {MaxConnLifetime: 10 * time.Millisecond, MaxConnDrain: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stress(t, cfg)
		})
	}
}

func stress(t *testing.T, cfg PoolConfig) {
	const n, workers, lasts = 4, 16, 1500 * time.Millisecond
	srv := &teller{seen: map[string]int{}}
	ln := listen(t)
	serve(t, ln, srv)
	proxy := newCutter(t, ln.Addr().String())
	var replaced, drained, cutOff atomic.Int64
	cfg.Trace = &Trace{
		ConnReplaced: func(ConnReplaced) { replaced.Add(1) },
		ConnDrained:  func(d ConnDrained) { drained.Add(1); cutOff.Add(int64(d.CutOff)) },
	}
	p := newPool(t, proxy.Addr().String(), n, cfg)
	l := &ledger{t: t, p: p, success: map[string]bool{}}
	end := time.Now().Add(lasts)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; l.goOn(end, workers); i++ {
				if rand.N(3) == 0 {
					l.stream(t.Context())
				} else {
					l.unary(t.Context(), fmt.Sprint(w, "/", i))
				}
			}
		})
	}
	cuts := 0
	for pace := time.NewTicker(20 * time.Millisecond); l.goOn(end, workers); <-pace.C {
		cuts += proxy.cut(func(int) bool { return rand.N(4) == 0 })
		if s := p.Stat(); !assert.LessOrEqual(t, s.InFlight, 2*workers, "and those given up that haven't noticed") || !assert.Equal(t, n, s.Conns) {
			break
		}
	}
	wg.Wait()
	require.True(t, eventually(10*time.Second, func() bool {
		s := p.Stat()
		return s.InFlight == 0 && s.Draining == 0
	}), "%+v", p.Stat())
	s := p.Stat()
	proxy.mu.Lock()
	most := proxy.most
	proxy.mu.Unlock()
	t.Logf("%+v; %d failed, %d cut off, %d connections cut, at most %d at a time", s, l.failed.Load(), cutOff.Load(), cuts, most)
	assert.EqualValues(t, l.begun.Load(), s.Calls)
	assert.Greater(t, l.begun.Load()-l.failed.Load(), int64(enough))
	srv.mu.Lock()
	seen := maps.Clone(srv.seen) // calls that failed may still reach it
	srv.mu.Unlock()
	for token, ok := range l.success {
		if ok {
			require.Equal(t, 1, seen[token], token)
		} else {
			require.LessOrEqual(t, seen[token], 1, token)
		}
	}
	for token := range seen {
		require.Contains(t, l.success, token)
	}
	assert.Greater(t, s.ReplacedOld, uint64(n))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, p.Close(ctx))
	assert.EqualValues(t, p.Stat().ReplacedOld, replaced.Load())
	assert.LessOrEqual(t, drained.Load(), replaced.Load())
	assert.GreaterOrEqual(t, drained.Load(), replaced.Load()-n, "but for those that Close has met")
	assert.LessOrEqual(t, most, 2*n+2*workers, "in service, being opened, and those with a call")
	if cfg.MaxConnDrain == 0 {
		assert.Zero(t, cutOff.Load())
	}
	_, err := call(t.Context(), p)
	assert.Equal(t, codes.Canceled, status.Code(err))
}
