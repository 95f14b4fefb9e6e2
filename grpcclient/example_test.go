package grpcclient_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/grpcclient"
	"github.com/holdfast-go/holdfast/pool"
)

// server is a gRPC server that knows nothing but grpc.health.v1.
func server() (address string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	return ln.Addr().String(), func() { srv.Stop(); <-done }
}

func ExampleDialOptions() {
	address, stop := server()
	defer stop()

	d, err := dial.New(dial.HighlyAvailable()) // or leave Config.Dialer out, and set DetectWithin
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	opts, err := grpcclient.DialOptions(grpcclient.Config{Dialer: d})
	if err != nil {
		log.Fatal(err)
	}
	cc, err := grpc.NewClient(address, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}
	defer cc.Close()
	res, err := healthpb.NewHealthClient(cc).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(res.GetStatus(), err)
	// Output: SERVING <nil>
}

func ExampleNewPool() {
	address, stop := server()
	defer stop()

	p, err := grpcclient.NewPool(address, 4, grpcclient.PoolConfig{MaxConnLifetime: 10 * time.Minute},
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.Close(ctx) // waits for calls in flight
	}()
	res, err := healthpb.NewHealthClient(p).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(res.GetStatus(), err)
	// Output: SERVING <nil>
}

// Exclusive use of a ClientConn, by package pool.
func ExamplePing() {
	address, stop := server()
	defer stop()

	d, err := dial.New(dial.Config{DetectWithin: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	opts, err := grpcclient.DialOptions(grpcclient.Config{Dialer: d})
	if err != nil {
		log.Fatal(err)
	}
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	p, err := pool.New(pool.Config[*grpc.ClientConn]{
		Open:  func(context.Context) (*grpc.ClientConn, error) { return grpc.NewClient(address, opts...) },
		Close: (*grpc.ClientConn).Close,
		Ping:  grpcclient.Ping,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(context.Background())
	err = p.Do(context.Background(), grpcclient.Ping)
	fmt.Println(err)
	// Output: <nil>
}
