package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// pace says how long the parts of the show take.
type pace struct {
	think    time.Duration // a worker's pause between two calls, on average
	settle   time.Duration // how long the work goes on before a fault
	away     time.Duration // how long the server is away when it restarts
	watched  time.Duration // how long the work goes on after a fault, and DetectWithin if that matters
	deadline time.Duration // of each call
	idle     time.Duration // how long the idle streams are; zero: there are none
	slack    time.Duration // what the machine may add to what is promised
}

var defaultPace = pace{
	think:    50 * time.Millisecond,
	settle:   700 * time.Millisecond,
	away:     6 * time.Second,
	watched:  4 * time.Second,
	deadline: 2 * time.Second,
	idle:     36 * time.Second,
}

// stage is what the faults have to work with.
type stage struct {
	pace
	detect  time.Duration
	workers int
	site    *backstage.Site
	ports   int // used so far

	servers []*server // of the present fault
	sides   []*side
	gate    backstage.Gate
	working sync.WaitGroup
}

// fault is one part of the show.
type fault struct {
	name    string
	what    string // what happens, for the reader
	lab     bool   // it needs network namespaces
	servers int
	play    func(context.Context, *stage) error
	keeps   func(row, *stage) []backstage.Promise // what holdfast promises
}

// script is the show. For each fault everything is new: servers and connections.
func script(s *stage) []fault {
	return []fault{
		{
			name: "server restarts", servers: 1, play: restart, keeps: awayKeeps,
			what: fmt.Sprintf("The server ends while the workers go on, and is back after %s.", backstage.Short(s.away)),
		},
		{
			name: "packets dropped", lab: true, servers: 1, play: drop, keeps: awayKeeps,
			what: fmt.Sprintf("For %s the router drops every packet while the work goes on.", backstage.Short(s.dropped())),
		},
		{
			name: "flows forgotten, idle", lab: true, servers: 1, play: forgetIdle, keeps: forgottenIdleKeeps,
			what: fmt.Sprintf("The workers pause, and the router forgets all flows, like a restarted firewall or NAT gateway: packets of existing connections vanish for ever, new connections work. After %s all workers go on.", backstage.Short(s.severed())),
		},
		{
			name: "flows forgotten, busy", lab: true, servers: 1, play: forgetBusy, keeps: lostKeeps,
			what: "The same while the work goes on.",
		},
		{
			name: "one server of two gone", lab: true, servers: 2, play: lose, keeps: lostKeeps,
			what: "The resolver knows two servers. The first one, which all sides use, can't be reached any more, and nobody says so.",
		},
	}
}

// dropped is how long packets are: long enough for the connections to be given up.
func (s *stage) dropped() time.Duration { return s.detect + 2*time.Second }

// severed is how long it takes, at most, until holdfast has ended an idle connection
// whose peer is silent: its FreshFor, and three seconds.
func (s *stage) severed() time.Duration { return s.detect/2 + 3*time.Second }

func restart(ctx context.Context, s *stage) error {
	s.strike(s.servers[0].stop)
	backstage.Sleep(ctx, s.away)
	if err := s.servers[0].start(); err != nil {
		return fmt.Errorf("restarting the server: %w", err)
	}
	s.each((*side).back)
	backstage.Sleep(ctx, s.watched)
	return nil
}

func drop(ctx context.Context, s *stage) error {
	s.strike(func() { s.site.Lab.Drop() })
	backstage.Sleep(ctx, s.dropped())
	s.each((*side).back)
	s.site.Lab.Heal()
	backstage.Sleep(ctx, s.watched)
	return nil
}

func forgetIdle(ctx context.Context, s *stage) error {
	s.gate.Close(ctx)
	s.site.Lab.ForgetNAT()
	backstage.Sleep(ctx, s.severed())
	s.strike(func() { s.gate.Open(s.workers) })
	backstage.Sleep(ctx, s.detect+s.watched/2)
	return nil
}

func forgetBusy(ctx context.Context, s *stage) error {
	s.strike(s.site.Lab.ForgetNAT)
	backstage.Sleep(ctx, s.detect+s.watched*3/4)
	return nil
}

func lose(ctx context.Context, s *stage) error {
	s.strike(func() { s.site.Lab.Server.Drop() })
	backstage.Sleep(ctx, s.detect+s.watched*3/4)
	return nil
}

// strike begins all sides' rows and breaks something.
func (s *stage) strike(act func()) {
	s.each((*side).strike)
	act()
	s.each((*side).broken)
}

// run plays a fault and returns what it did, a row for each side.
func (s *stage) run(ctx context.Context, f fault) (rows []row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.working.Wait()
		s.clear()
	}()
	for i := range f.servers {
		s.ports++
		listen, addr, err := s.site.Listener(i, 8000+s.ports)
		if err != nil {
			return nil, err
		}
		srv, err := newServer(listen, addr)
		if err != nil {
			return nil, err
		}
		s.servers = append(s.servers, srv)
	}
	if s.sides, err = newSides(s.site, s.detect, s.servers); err != nil {
		return nil, err
	}
	s.gate.Open(s.workers)
	s.start(ctx)
	backstage.Sleep(ctx, s.settle)
	if err := f.play(ctx, s); err != nil {
		return nil, err
	}
	s.each(func(side *side) { rows = append(rows, side.closeRow()) })
	return rows, ctx.Err()
}

// clear ends what run has made, and mends the network.
func (s *stage) clear() {
	for _, srv := range s.servers {
		srv.stop()
	}
	closeAll(s.sides)
	s.servers, s.sides = nil, nil
	if s.site.Lab != nil {
		s.site.Lab.Heal()
	}
}

func (s *stage) each(do func(*side)) {
	for _, side := range s.sides {
		do(side)
	}
}

// start starts the workers, of whom every second waits for connections. They end
// with ctx.
func (s *stage) start(ctx context.Context) {
	for _, side := range s.sides {
		for id := range s.workers {
			s.working.Go(func() {
				for s.gate.Pass(ctx, id) {
					side.call(ctx, s.deadline, id%2 == 0)
					s.gate.Leave()
					backstage.Sleep(ctx, s.think/2+rand.N(s.think))
				}
			})
		}
	}
}
