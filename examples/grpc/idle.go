package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// idleName is the part of the show that goes on beside the others.
const idleName = "stream lies idle"

func idleWhat(takes time.Duration) string {
	return fmt.Sprintf("For %s, from the beginning, each side has a stream on which nothing moves, such as a subscription, at another server, where nothing is broken. A client that pings more often than a server allows, every 5 minutes unless it was told otherwise, loses its connection.", backstage.Short(takes))
}

// stream is one on which nothing moves, and what became of it.
type stream struct {
	level string
	err   error         // that ended it; nil: it is open
	after time.Duration // so long
}

func (s stream) fate() string {
	if s.err == nil {
		return "open after " + backstage.Short(s.after)
	}
	why := status.Convert(s.err).Message()
	if _, goAway, ok := strings.Cut(why, "received prior goaway: "); ok {
		why = "GOAWAY, " + goAway
	}
	return fmt.Sprintf("ended after %s: %s", backstage.Short(s.after), why)
}

// idlers are the sides' idle streams.
type idlers struct {
	began  time.Time
	srv    *server
	sides  []*side
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	streams []stream
}

// newIdlers opens the streams, over the loopback interface. They are to be closed.
func newIdlers(detect time.Duration) (*idlers, error) {
	site, err := backstage.NewSite(false, 1, nil)
	if err != nil {
		return nil, err
	}
	listen, addr, err := site.Listener(0, 0)
	if err != nil {
		return nil, err
	}
	srv, err := newServer(listen, addr)
	if err != nil {
		return nil, err
	}
	sides, err := newSides(site, detect, []*server{srv})
	if err != nil {
		srv.stop()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	idle := &idlers{began: time.Now(), srv: srv, sides: sides, cancel: cancel}
	for i, side := range sides {
		idle.streams = append(idle.streams, stream{level: side.level})
		idle.wg.Go(func() {
			err := watch(ctx, side.cc)
			idle.mu.Lock()
			defer idle.mu.Unlock()
			idle.streams[i].err, idle.streams[i].after = err, time.Since(idle.began)
		})
	}
	return idle, nil
}

// watch opens a stream and waits for its end: the server says at once how it is,
// and then no more.
func watch(ctx context.Context, cc grpc.ClientConnInterface) error {
	s, err := healthpb.NewHealthClient(cc).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

// look returns what has become of the streams so far.
func (i *idlers) look() (streams []stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, s := range i.streams {
		if s.err == nil {
			s.after = time.Since(i.began)
		}
		streams = append(streams, s)
	}
	return streams
}

func (i *idlers) close() {
	i.cancel()
	i.wg.Wait()
	closeAll(i.sides)
	i.srv.stop()
}
