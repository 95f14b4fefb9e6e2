package grpcclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

var aMinute = flag.Bool("holdfast.minute", false, "let the pauses and outages last a minute that are shorter otherwise")

func TestMain(m *testing.M) {
	netlab.Parallel()
	goleak.VerifyTestMain(m)
}

// tester is a server of gRPC's interoperability protocol, as far as these tests
// go. Its streams answer each message, and end when the client has ended its side.
type tester struct {
	testgrpc.UnimplementedTestServiceServer
	name  string
	block chan struct{} // if not nil, unary calls wait for it, or for their end
	began chan struct{} // if not nil, is told of calls that wait
}

func (s *tester) UnaryCall(ctx context.Context, req *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s.block != nil && req.ResponseSize > 0 {
		s.began <- struct{}{}
		select {
		case <-s.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &testgrpc.SimpleResponse{Username: s.name, Payload: req.Payload}, nil
}

func (s *tester) StreamingInputCall(in grpc.ClientStreamingServer[testgrpc.StreamingInputCallRequest, testgrpc.StreamingInputCallResponse]) error {
	var n int32
	for {
		if _, err := in.Recv(); err != nil {
			return in.SendAndClose(&testgrpc.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		n++
	}
}

func (s *tester) StreamingOutputCall(req *testgrpc.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testgrpc.StreamingOutputCallResponse]) error {
	for i := range req.ResponseParameters {
		if err := out.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
		if i == 0 && s.block != nil {
			select {
			case <-s.block:
			case <-out.Context().Done():
				return out.Context().Err()
			}
		}
	}
	return nil
}

func (s *tester) FullDuplexCall(both grpc.BidiStreamingServer[testgrpc.StreamingOutputCallRequest, testgrpc.StreamingOutputCallResponse]) error {
	for {
		if _, err := both.Recv(); err != nil {
			return nil
		}
		if err := both.Send(&testgrpc.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// serve serves on a listener until the test ends.
func serve(t testing.TB, ln net.Listener, s testgrpc.TestServiceServer, opts ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	srv := grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(srv, s)
	run(t, ln, srv)
	return srv
}

func run(t testing.TB, ln net.Listener, srv *grpc.Server) {
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Stop()
		running.Wait()
	})
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln
}

// listenApart listens at a loopback address that nobody else uses, if this system
// has one: when it is closed its port isn't another listener's soon.
func listenApart(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.9.3:0")
	if err != nil {
		return listen(t)
	}
	return ln
}

// listenAgain listens where another listener did, whose port may be a client's for a
// while.
func listenAgain(t *testing.T, on net.Addr) (ln net.Listener) {
	t.Helper()
	var err error
	require.True(t, eventually(20*time.Second, func() bool {
		ln, err = net.Listen(on.Network(), on.String())
		return err == nil
	}), "%v", err)
	return ln
}

// newClient returns a ClientConn with the options of a Config, whose credentials
// are none unless others are given.
func newClient(t testing.TB, target string, cfg Config, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if cfg.Dialer == nil {
		d, err := dial.New(dial.Config{DetectWithin: cfg.DetectWithin})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		cfg.Dialer, cfg.DetectWithin = d, 0
	}
	opts, err := DialOptions(cfg)
	require.NoError(t, err)
	opts = append(opts, insecurely())
	cc, err := grpc.NewClient(target, append(opts, more...)...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// plainClient is what newClient is without our options.
func plainClient(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target, append([]grpc.DialOption{insecurely()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

func insecurely() grpc.DialOption { return grpc.WithTransportCredentials(insecure.NewCredentials()) }

func newPool(t testing.TB, target string, n int, cfg PoolConfig, more ...grpc.DialOption) *Pool {
	t.Helper()
	more = append([]grpc.DialOption{insecurely()}, more...)
	p, err := NewPool(target, n, cfg, more...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	return p
}

// ready waits until so many of a pool's connections are connected: a call may have
// been answered before gRPC says that.
func ready(t *testing.T, p *Pool, n int) {
	t.Helper()
	require.True(t, eventually(5*time.Second, func() bool { return p.Stat().Ready == n }), "%+v", p.Stat())
}

// call makes a unary call as a careful user does, with 5 s for the answer, and
// returns who has answered.
func call(ctx context.Context, cc grpc.ClientConnInterface, opts ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := testgrpc.NewTestServiceClient(cc).UnaryCall(ctx, &testgrpc.SimpleRequest{}, opts...)
	return res.GetUsername(), err
}

// waiting makes a unary call that the server doesn't answer before it is let.
func waiting(ctx context.Context, cc grpc.ClientConnInterface) error {
	_, err := testgrpc.NewTestServiceClient(cc).UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: 1})
	return err
}

// certified returns a certificate for example.com, which also does for a client,
// and who trusts it.
var certified = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
})

func clientTLS(mutual bool) credentials.TransportCredentials {
	cert, pool := certified()
	cfg := &tls.Config{RootCAs: pool, ServerName: "example.com"}
	if mutual {
		cfg.Certificates = []tls.Certificate{cert}
	}
	return credentials.NewTLS(cfg)
}

func serverTLS(mutual bool) credentials.TransportCredentials {
	cert, pool := certified()
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
	if mutual {
		cfg.ClientAuth, cfg.ClientCAs = tls.RequireAnyClientCert, pool // it isn't one for clients
	}
	return credentials.NewTLS(cfg)
}

// allowed is how much time of this machine's something may take that began then.
func allowed(clock *netlab.Clock, since time.Time, within time.Duration) time.Duration {
	if raceEnabled {
		within += time.Second
	}
	return within + clock.Lost(since)
}

// eventually waits until something is so, but no longer than that.
func eventually(within time.Duration, so func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !so(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// passes waits until something has lasted for a time.
func passes(since time.Time, d time.Duration) { <-time.After(time.Until(since.Add(d))) }

// together runs tests beside each other: they mostly wait.
func together(t *testing.T, tests map[string]func(t *testing.T)) {
	var wg sync.WaitGroup
	for name, test := range tests {
		wg.Go(func() { t.Run(name, test) })
	}
	wg.Wait()
}

// after returns what f returns, when it has.
func after[V any](f func() V) <-chan V {
	ch := make(chan V, 1)
	go func() { ch <- f() }()
	return ch
}

func within[V any](t *testing.T, ch <-chan V, limit time.Duration) (v V) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(limit):
		require.Fail(t, "it doesn't come")
	}
	return v
}

// traced is what a pool has told.
type traced struct {
	replaced chan ConnReplaced
	drained  chan ConnDrained
}

func newTraced() (*traced, *Trace) {
	tr := &traced{make(chan ConnReplaced, 1000), make(chan ConnDrained, 1000)}
	return tr, &Trace{
		ConnReplaced: func(r ConnReplaced) { tr.replaced <- r },
		ConnDrained:  func(d ConnDrained) { tr.drained <- d },
	}
}
