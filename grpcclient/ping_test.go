package grpcclient

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-go/holdfast/pool"
)

// healthy serves, and knows grpc.health.v1.
func healthy(t *testing.T) (address string, h *grpchealth.Server) {
	srv := grpc.NewServer()
	h = grpchealth.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	testgrpc.RegisterTestServiceServer(srv, &tester{})
	ln := listen(t)
	run(t, ln, srv)
	return ln.Addr().String(), h
}

func TestAServiceThatSaysThatItDoesNotServeGetsNoCalls(t *testing.T) {
	t.Parallel()
	address, h := healthy(t)
	h.SetServingStatus("a \"service\"", healthpb.HealthCheckResponse_NOT_SERVING)
	cc := newClient(t, address, Config{HealthCheck: true, HealthService: "a \"service\""})
	_, err := call(t.Context(), cc)
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, "NOT_SERVING")
	h.SetServingStatus("a \"service\"", healthpb.HealthCheckResponse_SERVING)
	_, err = call(t.Context(), cc, grpc.WaitForReady(true))
	require.NoError(t, err)
	_, err = call(t.Context(), newClient(t, address, Config{}))
	require.NoError(t, err, "without HealthCheck nobody asks")
}

func TestAServerThatDoesNotKnowHealthChecksGetsCalls(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	cc := newClient(t, ln.Addr().String(), Config{HealthCheck: true})
	_, err := call(t.Context(), cc)
	require.NoError(t, err)
	assert.NoError(t, Ping(t.Context(), cc))
}

func TestPingTellsWhatTheServerSays(t *testing.T) {
	t.Parallel()
	address, h := healthy(t)
	cc := newClient(t, address, Config{})
	require.NoError(t, Ping(t.Context(), cc))
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	var no *NotServingError
	require.ErrorAs(t, Ping(t.Context(), cc), &no)
	assert.Equal(t, "NOT_SERVING", no.Status)
	h.SetServingStatus("one", healthpb.HealthCheckResponse_SERVING)
	assert.NoError(t, PingService(t.Context(), cc, "one"))
	assert.Equal(t, codes.NotFound, status.Code(PingService(t.Context(), cc, "two")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, codes.Canceled, status.Code(Ping(ctx, cc)))
}

func TestPingIsWhatAPoolOfClientConnsWants(t *testing.T) {
	t.Parallel()
	address, h := healthy(t)
	opts, err := DialOptions(Config{})
	require.NoError(t, err)
	opts = append(opts, insecurely())
	p, err := pool.New(pool.Config[*grpc.ClientConn]{
		Open:       func(context.Context) (*grpc.ClientConn, error) { return grpc.NewClient(address, opts...) },
		Ping:       Ping,
		PingPeriod: time.Millisecond,
		MaxConns:   1,
	})
	require.NoError(t, err)
	defer p.Close(context.Background())
	use := func() error {
		return p.Do(t.Context(), func(ctx context.Context, cc *grpc.ClientConn) error {
			_, err := call(ctx, cc)
			return err
		})
	}
	require.NoError(t, use())
	require.NoError(t, use())
	h.Shutdown()
	assert.NoError(t, use(), "a new one isn't pinged before it is used")
}

// An hour, in no time: the connections are in memory, and time is synctest's.
func TestADefaultServerHasNothingAgainstAnHourOfIdleness(t *testing.T) {
	for name, of := range map[string]idleness{
		"without calls":                            {},
		"with a stream on which nothing moves":     {streaming: true},
		"with a health check":                      {cfg: Config{HealthCheck: true}},
		"with a health check and a stream":         {cfg: Config{HealthCheck: true}, streaming: true},
		"with a call now and then":                 {every: 5*time.Minute + 31*time.Second},
		"with a call just after pings have ceased": {every: 5*time.Minute + 30*time.Second + time.Millisecond},
		"with hardly any pings":                    {cfg: Config{ServerMinPing: time.Hour}, streaming: true},
		"with pings for ever after":                {cfg: Config{ServerMinPing: math.MaxInt64}, streaming: true},
		"without pings":                            {cfg: Config{ServerMinPing: -1}, streaming: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dialed := of.spend(t, 90*time.Minute)
				assert.EqualValues(t, 1, dialed, "the connection is the first one still")
			})
		})
	}
}

func TestAServerHasNothingAgainstPingsAsOftenAsItPermits(t *testing.T) {
	for _, often := range []time.Duration{time.Second, 10 * time.Second, 11 * time.Second, time.Minute} {
		for _, idle := range []bool{false, true} {
			t.Run(fmt.Sprintf("every %v, idle: %v", often, idle), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dialed := idleness{
						cfg: Config{ServerMinPing: often, PingIdle: idle}, streaming: !idle,
						server: []grpc.ServerOption{grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: often, PermitWithoutStream: idle})},
					}.spend(t, time.Hour)
					assert.EqualValues(t, 1, dialed)
				})
			})
		}
	}
}

// What the same server does to a client that is told wrong things about it, so
// that the test above means something.
func TestADefaultServerBansWhoPingsTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed := idleness{cfg: Config{ServerMinPing: time.Minute}, streaming: true}.spend(t, time.Hour)
		assert.Greater(t, dialed, int32(1))
	})
}

// idleness is a way to leave a connection idle.
type idleness struct {
	cfg       Config
	streaming bool          // with a stream
	every     time.Duration // with a call as often as that; zero: none
	server    []grpc.ServerOption
}

// spend leaves a connection idle, and returns how many have been dialled by the
// end of a call after it.
func (of idleness) spend(t *testing.T, idle time.Duration) (dialed int32) {
	ln := bufconn.Listen(1 << 16)
	srv := serveBubble(ln, of.server...)
	defer srv.Stop()
	var n atomic.Int32
	opts, err := DialOptions(of.cfg)
	require.NoError(t, err)
	cc, err := grpc.NewClient("passthrough:///x", append(opts,
		insecurely(),
		grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			n.Add(1)
			return ln.DialContext(ctx)
		}))...)
	require.NoError(t, err)
	defer cc.Close()
	_, err = call(t.Context(), cc)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if of.streaming {
		_, err := testgrpc.NewTestServiceClient(cc).FullDuplexCall(ctx)
		require.NoError(t, err)
	}
	for end := time.Now().Add(idle); of.every > 0 && time.Now().Before(end); {
		<-time.After(of.every)
		_, err = call(t.Context(), cc)
		require.NoError(t, err)
	}
	<-time.After(idle)
	_, err = call(t.Context(), cc)
	require.NoError(t, err)
	return n.Load()
}

func serveBubble(ln net.Listener, opts ...grpc.ServerOption) *grpc.Server {
	srv := grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(srv, &tester{})
	healthpb.RegisterHealthServer(srv, grpchealth.NewServer())
	go func() { _ = srv.Serve(ln) }()
	return srv
}
