package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// pace says how long the parts of the show take.
type pace struct {
	takes    time.Duration // the server for an answer
	think    time.Duration // a worker's pause between two requests, on average
	settle   time.Duration // how long the work goes on before and after a fault
	away     time.Duration // how long the server is away when it restarts
	rounds   int           // how often idle connections are closed
	deadline time.Duration // of each request
	dropped  time.Duration // how long packets are
	watched  time.Duration // how long the work goes on after a silent fault
}

var defaultPace = pace{
	takes:    10 * time.Millisecond,
	think:    40 * time.Millisecond,
	settle:   800 * time.Millisecond,
	away:     time.Second,
	rounds:   8,
	deadline: 5 * time.Second,
	dropped:  3 * time.Second,
	watched:  5500 * time.Millisecond,
}

// stage is what the faults have to work with.
type stage struct {
	pace
	detect  time.Duration
	workers int
	site    *backstage.Site
	cert    tls.Certificate
	roots   *x509.CertPool
	ports   int // used so far

	sides   []*side // of the present fault
	gate    backstage.Gate
	working sync.WaitGroup
}

// fault is one part of the show.
type fault struct {
	name  string
	what  string // what happens, for the reader
	lab   bool   // it needs network namespaces
	play  func(context.Context, *stage) error
	keeps func(row, *stage) []backstage.Promise // what Client promises
	first func(row, *stage) []backstage.Promise // what NewTransport promises; nil: nothing
}

// script is the show. For each fault everything is new: servers, transports,
// connections.
func script(s *stage) []fault {
	return []fault{
		{
			name: "server restarts", play: restart, keeps: restartKeeps,
			what: fmt.Sprintf("The server ends while the workers go on, and is back after %s.", backstage.Short(s.away)),
		},
		{
			name: "idle ones closed", play: closeIdle, keeps: severedKeeps,
			what: fmt.Sprintf("The workers pause, the server closes all idle connections, and just then they all go on; %d times.", s.rounds),
		},
		{
			name: "connections reset", play: reset, keeps: severedKeeps,
			what: "All connections are reset while the work goes on.",
		},
		{
			name: "flows forgotten, idle", lab: true, play: forgetIdle, keeps: forgottenIdleKeeps,
			what: fmt.Sprintf("The workers pause, and the router forgets all flows, like a restarted firewall or NAT gateway: packets of existing connections vanish for ever, new connections work. After %s all workers go on.", backstage.Short(s.fresh())),
		},
		{
			name: "flows forgotten, busy", lab: true, play: forgetBusy, keeps: forgottenKeeps, first: transportKeeps,
			what: "The same while the work goes on.",
		},
		{
			name: "packets dropped", lab: true, play: drop, keeps: droppedKeeps,
			what: fmt.Sprintf("For %s the router drops every packet while the work goes on.", backstage.Short(s.dropped)),
		},
	}
}

// fresh is more than holdfast's FreshFor: after that long in silence a connection
// is asked before it is used.
func (s *stage) fresh() time.Duration { return s.detect/2 + 500*time.Millisecond }

func restart(ctx context.Context, s *stage) error {
	s.strike(func(side *side) { side.srv.stop() })
	backstage.Sleep(ctx, s.away)
	for _, side := range s.sides {
		if err := side.srv.start(); err != nil {
			return fmt.Errorf("restarting the server: %w", err)
		}
		side.back()
	}
	backstage.Sleep(ctx, 2*s.settle)
	return nil
}

func closeIdle(ctx context.Context, s *stage) error {
	for i := range s.rounds {
		s.gate.Close(ctx)
		backstage.Sleep(ctx, 5*s.think)
		if i == 0 {
			s.strike(func(*side) {})
		}
		var closing sync.WaitGroup
		for _, side := range s.sides {
			closing.Go(side.srv.closeIdle)
		}
		s.gate.Open(s.workers)
		closing.Wait()
		backstage.Sleep(ctx, 4*s.think)
	}
	return nil
}

func reset(ctx context.Context, s *stage) error {
	s.strike(func(side *side) { side.srv.reset() })
	backstage.Sleep(ctx, 2*s.settle)
	return nil
}

func forgetIdle(ctx context.Context, s *stage) error {
	s.gate.Close(ctx)
	s.site.Lab.ForgetNAT()
	backstage.Sleep(ctx, s.fresh())
	s.strike(func(*side) {})
	s.gate.Open(s.workers)
	backstage.Sleep(ctx, s.watched)
	return nil
}

func forgetBusy(ctx context.Context, s *stage) error {
	s.each((*side).strike)
	s.site.Lab.ForgetNAT()
	s.each((*side).struck)
	backstage.Sleep(ctx, s.watched)
	return nil
}

func drop(ctx context.Context, s *stage) error {
	s.each((*side).strike)
	s.site.Lab.Drop()
	s.each((*side).struck)
	backstage.Sleep(ctx, s.dropped)
	s.each((*side).back)
	s.site.Lab.Heal()
	backstage.Sleep(ctx, s.watched)
	return nil
}

// strike does something to each side and begins its row.
func (s *stage) strike(act func(*side)) {
	s.each(func(side *side) {
		side.strike()
		act(side)
		side.struck()
	})
}

// run plays a fault and returns what it did, a row for each side.
func (s *stage) run(ctx context.Context, f fault) (rows []row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.working.Wait()
		s.each((*side).close)
		s.sides = nil
	}()
	for _, protocol := range protocols {
		for _, level := range levels {
			s.ports++
			side, err := newSide(level, protocol, s, 8000+s.ports)
			if err != nil {
				return nil, err
			}
			s.sides = append(s.sides, side)
		}
	}
	s.gate.Open(s.workers)
	s.start(ctx)
	backstage.Sleep(ctx, s.settle)
	if err := f.play(ctx, s); err != nil {
		return nil, err
	}
	s.gate.Close(ctx)
	s.each(func(side *side) { rows = append(rows, side.closeRow()) })
	return rows, ctx.Err()
}

func (s *stage) each(do func(*side)) {
	for _, side := range s.sides {
		do(side)
	}
}

// start starts the workers. They end with ctx.
func (s *stage) start(ctx context.Context) {
	for _, side := range s.sides {
		for id := range s.workers {
			s.working.Go(func() {
				for s.gate.Pass(ctx, id) {
					side.send(ctx, s.deadline)
					s.gate.Leave()
					backstage.Sleep(ctx, s.think/2+rand.N(s.think))
				}
			})
		}
	}
}
