package grpcclient

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // Config.HealthCheck takes its client
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Ping asks the server whether it serves, by grpc.health.v1, on the connection
// that calls use. It has the shape of [pool.Config]'s Ping for a
// pool of *grpc.ClientConn. Nil means yes; a server that doesn't know the protocol
// has answered, which is a yes, too. If there is no connection it is opened. Give
// it a ctx that ends.
//
// [pool.Config]: https://pkg.go.dev/github.com/holdfast-go/holdfast/pool#Config
func Ping(ctx context.Context, cc *grpc.ClientConn) error { return PingService(ctx, cc, "") }

// PingService is Ping for one of the server's services. Of one that the server
// doesn't know it returns the error, with codes.NotFound.
func PingService(ctx context.Context, cc grpc.ClientConnInterface, service string) error {
	res, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil
	case err != nil:
		return err
	case res.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return &NotServingError{Service: service, Status: res.GetStatus().String()}
	}
	return nil
}

// NotServingError is what Ping returns where the server lives, and says that it,
// or the service, doesn't serve.
type NotServingError struct {
	Service string // empty: the server as a whole
	Status  string // the protocol's word: NOT_SERVING, UNKNOWN
}

// Error names the service and its status.
func (e *NotServingError) Error() string {
	if e.Service == "" {
		return fmt.Sprintf("grpcclient: the server says %s", e.Status)
	}
	return fmt.Sprintf("grpcclient: the server says of %s: %s", e.Service, e.Status)
}
