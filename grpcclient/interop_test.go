package grpcclient

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// The cases of gRPC's own interoperability client that need no cloud and no load
// report, and that grpc-go's own server knows (not pick_first_unary), through these
// options and through a pool. They end the process when they fail, which is why
// each says that it begins.
func TestTheCasesOfGRPCsInteroperabilityClientPass(t *testing.T) {
	t.Parallel()
	type client = testgrpc.TestServiceClient
	cases := []struct {
		name string
		run  func(context.Context, client)
	}{
		{"empty_unary", func(ctx context.Context, c client) { interop.DoEmptyUnaryCall(ctx, c) }},
		{"large_unary", func(ctx context.Context, c client) { interop.DoLargeUnaryCall(ctx, c) }},
		{"client_streaming", func(ctx context.Context, c client) { interop.DoClientStreaming(ctx, c) }},
		{"server_streaming", func(ctx context.Context, c client) { interop.DoServerStreaming(ctx, c) }},
		{"ping_pong", func(ctx context.Context, c client) { interop.DoPingPong(ctx, c) }},
		{"empty_stream", func(ctx context.Context, c client) { interop.DoEmptyStream(ctx, c) }},
		{"timeout_on_sleeping_server", func(ctx context.Context, c client) { interop.DoTimeoutOnSleepingServer(ctx, c) }},
		{"cancel_after_begin", func(ctx context.Context, c client) { interop.DoCancelAfterBegin(ctx, c) }},
		{"cancel_after_first_response", func(ctx context.Context, c client) { interop.DoCancelAfterFirstResponse(ctx, c) }},
		{"status_code_and_message", func(ctx context.Context, c client) { interop.DoStatusCodeAndMessage(ctx, c) }},
		{"special_status_message", func(ctx context.Context, c client) { interop.DoSpecialStatusMessage(ctx, c) }},
		{"custom_metadata", func(ctx context.Context, c client) { interop.DoCustomMetadata(ctx, c) }},
	}
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var server []grpc.ServerOption
			var opts []grpc.DialOption
			if secure {
				server, opts = append(server, grpc.Creds(serverTLS(false))), append(opts, grpc.WithTransportCredentials(clientTLS(false)))
			}
			ln := listen(t)
			serve(t, ln, interop.NewTestServer(), server...)
			cc := newClient(t, ln.Addr().String(), Config{}, opts...)
			for client, conn := range map[string]grpc.ClientConnInterface{
				"DialOptions": cc,
				"Pool":        newPool(t, ln.Addr().String(), 2, PoolConfig{}, opts...),
			} {
				for _, c := range cases {
					t.Log(client, c.name)
					c.run(t.Context(), testgrpc.NewTestServiceClient(conn))
				}
				t.Log(client, "unimplemented_service")
				interop.DoUnimplementedService(t.Context(), testgrpc.NewUnimplementedServiceClient(conn))
			}
			t.Log("unimplemented_method")
			interop.DoUnimplementedMethod(t.Context(), cc)
			t.Log("rpc_soak")
			interop.DoSoakTest(t.Context(), soak(ln.Addr(), func() (*grpc.ClientConn, func()) { return cc, func() {} }))
			t.Log("channel_soak")
			interop.DoSoakTest(t.Context(), soak(ln.Addr(), func() (*grpc.ClientConn, func()) {
				cc := newClient(t, ln.Addr().String(), Config{}, opts...)
				return cc, func() { cc.Close() }
			}))
			require.NoError(t, t.Context().Err())
		})
	}
}

func soak(server net.Addr, channel func() (*grpc.ClientConn, func())) interop.SoakTestConfig {
	return interop.SoakTestConfig{
		RequestSize:                      271828,
		ResponseSize:                     314159,
		PerIterationMaxAcceptableLatency: 10 * time.Second,
		OverallTimeout:                   20 * time.Second,
		ServerAddr:                       server.String(),
		NumWorkers:                       2,
		Iterations:                       10,
		ChannelForTest:                   channel,
	}
}
