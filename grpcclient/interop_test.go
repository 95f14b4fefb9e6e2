package grpcclient

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// The cases of gRPC's own interoperability client that need no cloud, through
// these options and through a pool. They end the process when they fail, which
// is why each says that it begins.
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
			interop.DoUnimplementedMethod(t.Context(), cc)
			require.NoError(t, t.Context().Err())
		})
	}
}
