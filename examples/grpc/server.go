package main

import (
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// server is what the workers call: grpc.health.v1, because that needs no code of
// its own.
type server struct {
	listen  func() (net.Listener, error) // at the same address every time
	srv     *grpc.Server
	running sync.WaitGroup
}

// start listens. After stop it may have to try again: the port could be taken
// for an outgoing connection meanwhile.
func (s *server) start() error {
	ln, err := s.listen()
	for giveUp := time.Now().Add(2 * time.Second); err != nil && time.Now().Before(giveUp); ln, err = s.listen() {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	s.srv = grpc.NewServer()
	healthpb.RegisterHealthServer(s.srv, health.NewServer())
	s.running.Go(func() { _ = s.srv.Serve(ln) })
	return nil
}

// stop ends it with all its connections.
func (s *server) stop() {
	if s.srv != nil {
		s.srv.Stop()
		s.running.Wait()
	}
}
