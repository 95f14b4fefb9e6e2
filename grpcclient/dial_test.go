package grpcclient

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestTargetsMeanWhatTheyMeanToNewClient(t *testing.T) {
	t.Parallel()
	tcp := listen(t)
	serve(t, tcp, &tester{name: "tcp"})
	_, port, err := net.SplitHostPort(tcp.Addr().String())
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "a socket")
	unix, err := net.Listen("unix", path)
	require.NoError(t, err)
	serve(t, unix, &tester{name: "unix"})
	abstract, err := net.Listen("unix", "@holdfast-"+filepath.Base(filepath.Dir(path))+port)
	require.NoError(t, err)
	serve(t, abstract, &tester{name: "abstract"})
	for target, want := range map[string]string{
		tcp.Addr().String():                             "tcp",
		"dns:///" + tcp.Addr().String():                 "tcp",
		"dns:///localhost:" + port:                      "tcp",
		"localhost:" + port:                             "tcp",
		"passthrough:///" + tcp.Addr().String():         "tcp",
		"passthrough:///localhost:" + port:              "tcp",
		"unix:" + path:                                  "unix",
		"unix://" + path:                                "unix",
		"passthrough:///unix://" + path:                 "unix",
		"unix-abstract:" + abstract.Addr().String()[1:]: "abstract",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			cc := newClient(t, target, Config{}, grpc.WithDisableServiceConfig()) // which would be looked up elsewhere
			who, err := call(t.Context(), cc)
			require.NoError(t, err)
			assert.Equal(t, want, who)
		})
	}
}

func TestOfAResolversAddressesTheOneThatAnswersIsUsed(t *testing.T) {
	t.Parallel()
	dead := listenApart(t)
	dead.Close()
	ln := listen(t)
	serve(t, ln, &tester{name: "second"})
	r := manual.NewBuilderWithScheme("several")
	r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: dead.Addr().String()}, {Addr: ln.Addr().String()}}})
	who, err := call(t.Context(), newClient(t, "several:///any", Config{}, grpc.WithResolvers(r)))
	require.NoError(t, err)
	assert.Equal(t, "second", who)
}

func TestOfTwoResolversForDNSTheFirstGivenIsUsed(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	own := manual.NewBuilderWithScheme("dns")
	own.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: ln.Addr().String()}}})
	d, err := dial.New(dial.Config{})
	require.NoError(t, err)
	defer d.Close()
	opts, err := DialOptions(Config{Dialer: d})
	require.NoError(t, err)
	cc, err := grpc.NewClient("dns:///nowhere.invalid:1", append([]grpc.DialOption{grpc.WithResolvers(own), insecurely()}, opts...)...)
	require.NoError(t, err)
	defer cc.Close()
	_, err = call(t.Context(), cc)
	require.NoError(t, err)

	_, err = call(t.Context(), newPool(t, "dns:///nowhere.invalid:1", 1, PoolConfig{}, grpc.WithResolvers(own)))
	require.NoError(t, err, "a pool's own are the last")
}

func TestAServiceConfigsRetryPolicyIsHeeded(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	ln := listen(t)
	serve(t, ln, &tester{}, grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if calls.Add(1) < 3 {
			return nil, status.Error(codes.Unavailable, "not yet")
		}
		return h(ctx, req)
	}))
	const policy = `{"methodConfig": [{"name": [{}], "retryPolicy":
		{"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	_, err := call(t.Context(), newClient(t, ln.Addr().String(), Config{}, grpc.WithDefaultServiceConfig(policy)))
	require.NoError(t, err)
	assert.EqualValues(t, 3, calls.Load())
}

func TestOptionsThatComeLaterWin(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	ln := listenApart(t)
	ln.Close()
	begun := time.Now()
	cc := newClient(t, ln.Addr().String(), Config{}, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: time.Minute, Multiplier: 1, MaxDelay: time.Minute}, MinConnectTimeout: time.Second,
	}))
	_, err := call(t.Context(), cc)
	require.Error(t, err)
	assert.Less(t, time.Since(begun), allowed(clock, begun, 4*time.Second))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	serve(t, listenAgain(t, ln.Addr()), &tester{})
	_, err = call(ctx, cc, grpc.WaitForReady(true))
	assert.ErrorIs(t, ctx.Err(), context.DeadlineExceeded, "%v", err)
}

// A client that finds nobody who serves is no burden to who is there: a balancer
// without backends, a port that nobody listens on.
func TestAttemptsToConnectAreBoundedAtEachAddress(t *testing.T) {
	t.Parallel()
	for name, accepts := range map[string]bool{"closes at once": true, "refuses": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			dialed := map[string]int{}
			d, err := dial.New(dial.Config{Trace: &dial.Trace{DialDone: func(_ context.Context, d dial.DialDone) {
				mu.Lock()
				defer mu.Unlock()
				dialed[d.Address]++
			}}})
			require.NoError(t, err)
			t.Cleanup(func() { d.Close() })
			var state resolver.State
			for range 3 {
				ln := listenApart(t)
				state.Addresses = append(state.Addresses, resolver.Address{Addr: ln.Addr().String()})
				if !accepts {
					ln.Close()
					continue
				}
				var running sync.WaitGroup
				running.Go(func() {
					for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
						c.Close()
					}
				})
				t.Cleanup(func() { ln.Close(); running.Wait() })
			}
			r := manual.NewBuilderWithScheme("several")
			r.InitialState(state)
			cc := newClient(t, "several:///any", Config{Dialer: d}, grpc.WithResolvers(r))
			const lasts = 4 * time.Second
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for begun := time.Now(); time.Since(begun) < lasts; <-pace.C {
				_, err := call(t.Context(), cc)
				require.Error(t, err)
			}
			mu.Lock()
			defer mu.Unlock()
			t.Log(dialed)
			assert.Len(t, dialed, 3)
			for _, n := range dialed {
				assert.LessOrEqual(t, n, 4+3*int(lasts.Seconds()), "%v", dialed)
			}
		})
	}
}

// slow is a listener whose connections wait before anybody speaks to them.
type slow struct {
	net.Listener
	by time.Duration
}

func (l slow) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	<-time.After(l.by)
	return c, err
}

// The handshakes count as connecting: DetectWithin is about silence later on.
func TestADialersTimeoutBoundsConnectingAndNotDetectWithin(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]codes.Code{10 * time.Second: codes.OK, time.Second: codes.Unavailable} {
		t.Run(timeout.String(), func(t *testing.T) {
			t.Parallel()
			ln := listen(t)
			serve(t, slow{ln, 2500 * time.Millisecond}, &tester{})
			d, err := dial.New(dial.Config{DetectWithin: 2 * time.Second, Timeout: timeout})
			require.NoError(t, err)
			t.Cleanup(func() { d.Close() })
			_, err = call(t.Context(), newClient(t, ln.Addr().String(), Config{Dialer: d}))
			assert.Equal(t, want, status.Code(err), "%v", err)
		})
	}
}

func TestAServerThatIsBackIsFoundWithinASecond(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	ln := listenApart(t)
	cc := newClient(t, ln.Addr().String(), Config{})
	srv := serve(t, ln, &tester{})
	_, err := call(t.Context(), cc)
	require.NoError(t, err)
	srv.Stop()
	begun := time.Now()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for time.Since(begun) < 3*time.Second { // with gRPC's own, the pause is more than 2 s by then
		_, err := call(t.Context(), cc)
		require.Error(t, err)
		<-pace.C
	}
	serve(t, listenAgain(t, ln.Addr()), &tester{})
	back := time.Now()
	_, err = call(t.Context(), cc, grpc.WaitForReady(true))
	require.NoError(t, err)
	assert.LessOrEqual(t, time.Since(back), allowed(clock, back, time.Second))
}
