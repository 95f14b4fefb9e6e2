// Grpc shows what package grpcclient does when servers and networks break, in
// less than a minute:
//
//	go run ./examples/grpc
//
// Workers make calls, with a deadline each, to a server that is built in: on an
// ordinary ClientConn, on one with keepalive and a short backoff, on one with
// grpcclient.DialOptions, and on a grpcclient.Pool. Meanwhile the program restarts
// the server; as root on Linux it also makes the network drop packets, forget flows
// and lose one server of two, in network namespaces of its own. And all the while a
// stream lies idle on each side, at a server that nothing happens to but what the
// clients do to it. It ends with a table of what each fault cost. The exit code is
// 0 if holdfast kept its promises, 1 if it broke one, 2 if the show could not be
// held, and 130 if it was interrupted.
//
// The lines to copy are in the functions withOptions and withPool.
package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/keepalive"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/grpcclient"
)

// withOptions is a ClientConn of gRPC's own. A program of yours needs neither a
// dialer for it nor to do without proxies, only DetectWithin: here the dialer leads
// into a network namespace, where there are none.
func withOptions(target string, d *dial.Dialer, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	ours, err := grpcclient.DialOptions(grpcclient.Config{Dialer: d, Proxy: noProxy})
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target, append(ours, opts...)...)
}

// withPool is two connections, behind the interface that generated code wants.
func withPool(target string, d *dial.Dialer, opts ...grpc.DialOption) (*grpcclient.Pool, error) {
	cfg := grpcclient.PoolConfig{Config: grpcclient.Config{Dialer: d, Proxy: noProxy}}
	return grpcclient.NewPool(target, 2, cfg, opts...)
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// tuning is what can be done about dead connections with gRPC's own means: pings as
// often as gRPC lets a client send them, the same time to notice that nobody
// answers as holdfast has, and a backoff that is as short as holdfast's.
func tuning(detect time.Duration) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: detect, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: detect,
		}),
	}
}

// plaintext is what all sides have in common.
func plaintext() grpc.DialOption { return grpc.WithTransportCredentials(insecure.NewCredentials()) }

func main() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) // it would talk in between
	backstage.Main(start)
}

// options are what the flags set, and tests.
type options struct {
	backstage.Options
	pace pace
}

// start is main without its globals.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{backstage.Options{Workers: 4, Detect: 2 * time.Second, Lab: true}, defaultPace}
	return backstage.Program{
		Name:  "grpc",
		About: "Shows what gRPC calls survive.",
		Flags: o.Flags,
		Check: o.Check,
		Show:  func(ctx context.Context, out io.Writer) (int, error) { return show(ctx, o, out) },
	}.Start(ctx, args, stdout, stderr)
}
