package main

import (
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// server is what the workers call: grpc.health.v1, because that needs no code of
// its own. It has gRPC's default options.
type server struct {
	addr    string
	listen  func() (net.Listener, error) // at that address, every time
	srv     *grpc.Server
	running sync.WaitGroup
}

// newServer starts a server, which is to be stopped.
func newServer(listen func() (net.Listener, error), addr string) (*server, error) {
	s := &server{addr: addr, listen: listen}
	return s, s.start()
}

func (s *server) start() error {
	ln, err := s.listen()
	if err != nil {
		return err
	}
	s.srv = grpc.NewServer()
	healthpb.RegisterHealthServer(s.srv, health.NewServer())
	s.running.Go(func() { _ = s.srv.Serve(ln) })
	return nil
}

// stop ends it with all its connections. It may be called again.
func (s *server) stop() {
	s.srv.Stop()
	s.running.Wait()
}
