package main

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// pace says how long the parts of the show take.
type pace struct {
	think    time.Duration // a worker's pause between two operations, on average
	settle   time.Duration // how long the work is watched before and after a fault
	away     time.Duration // how long the server is away when it restarts
	idle     time.Duration // how long the other workers pause before the server closes idle connections
	deadline time.Duration // of operations while the server hangs
	hang     time.Duration // how long it does
}

var defaultPace = pace{
	think:    30 * time.Millisecond,
	settle:   1500 * time.Millisecond,
	away:     time.Second,
	idle:     time.Second,
	deadline: time.Second,
	hang:     2500 * time.Millisecond,
}

// stage is what the faults have to work with.
type stage struct {
	pace
	detect time.Duration
	site   *backstage.Site
	crew   *crew
	sides  []*side
	tell   *narrator
}

// fault is one part of the show.
type fault struct {
	name   string
	what   string // what happens and what is fair about it, for the reader
	severs bool   // it ends connections
	lab    bool   // it needs network namespaces
	play   func(context.Context, *stage, fault) error
	keeps  func(row, *stage) []backstage.Promise
}

// script is the show. Before each fault both pools hold as many idle
// connections as they may have.
func script(s *stage) []fault {
	return []fault{
		{
			name: "server restarts", severs: true, play: restart, keeps: restartKeeps,
			what: fmt.Sprintf("The workers pause. The server is shut down properly: all connections, idle at that moment, get a FIN. After %s it is back, and all workers return at once.", backstage.Short(s.away)),
		},
		{
			name: "connections reset", severs: true, play: reset, keeps: resetKeeps,
			what: "All connections get an RST while the work goes on. Operations in flight at that moment fail on any pool; most connections are idle.",
		},
		{
			name: "idle ones closed", severs: true, play: closeIdle, keeps: resetKeeps,
			what: fmt.Sprintf("Two workers go on, the others pause. After %s the server closes the connections that lie idle, as a server's or a load balancer's idle limit does. Then all workers return at once.", backstage.Short(s.idle)),
		},
		{
			name: "server hangs", play: hang, keeps: hangKeeps,
			what: fmt.Sprintf("The server's process stands still for %s, its kernel goes on accepting and acknowledging. To the network that is a slow server, so only a deadline helps, on any pool: for this fault every operation has one of %s, on both sides.", backstage.Short(s.hang), backstage.Short(s.deadline)),
		},
		{
			name: "packets dropped", lab: true, play: drop, keeps: dropKeeps,
			what: fmt.Sprintf("For %s the router drops every packet, without a word. No operation has a deadline, on either side: holdfast promises an error within %s and a second; a plain connection waits, and goes on if the network ever comes back.", backstage.Short(silence(s)), s.detect),
		},
		{
			name: "flows forgotten", lab: true, play: forget, keeps: forgetKeeps,
			what: "The router forgets all flows, like a restarted firewall or NAT gateway: packets of existing connections vanish for ever, new connections work. Again no deadlines.",
		},
	}
}

// silence is how long packets are dropped: long enough for holdfast to give
// up both the operations in flight and a checkout.
func silence(s *stage) time.Duration { return s.detect * 5 / 2 }

// both does something for each side.
func (s *stage) both(do func(*side)) {
	for _, side := range s.sides {
		do(side)
	}
}

func restart(ctx context.Context, s *stage, f fault) error {
	s.crew.gate.Close(ctx)
	s.tell.say("server", "shuts down")
	s.both(func(side *side) { side.strike(f, side.fwd.stop) })
	backstage.Sleep(ctx, s.away)
	s.tell.say("server", "listens again, the workers return")
	for _, side := range s.sides {
		if err := side.fwd.start(); err != nil {
			return fmt.Errorf("restarting the server: %w", err)
		}
	}
	s.both((*side).back)
	s.resume(ctx)
	return nil
}

func reset(ctx context.Context, s *stage, f fault) error {
	s.tell.say("server", "resets all connections")
	s.both(func(side *side) { side.strike(f, side.fwd.reset) })
	backstage.Sleep(ctx, s.settle)
	return nil
}

func closeIdle(ctx context.Context, s *stage, f fault) error {
	s.crew.gate.Open(2)
	backstage.Sleep(ctx, s.idle)
	s.tell.say("server", "closes idle connections")
	s.both(func(side *side) {
		side.strike(f, func() int { return side.fwd.closeIdle(s.idle * 3 / 4) })
	})
	backstage.Sleep(ctx, s.settle/3)
	s.tell.say("workers", "return")
	s.both((*side).back)
	s.resume(ctx)
	return nil
}

func hang(ctx context.Context, s *stage, f fault) error {
	s.crew.gate.Close(ctx)
	s.crew.deadline.Store(int64(s.deadline))
	s.crew.gate.Open(s.crew.size)
	backstage.Sleep(ctx, s.settle/3)
	s.tell.say("server", "hangs")
	s.both(func(side *side) {
		side.strike(f, func() int { side.fwd.hang(); return 1 })
	})
	backstage.Sleep(ctx, s.hang)
	s.tell.say("server", "goes on")
	s.both(func(side *side) { side.back(); side.fwd.wake() })
	backstage.Sleep(ctx, s.settle)
	s.crew.gate.Close(ctx)
	s.crew.deadline.Store(0)
	return nil
}

func drop(ctx context.Context, s *stage, f fault) error {
	s.tell.say("router", "drops all packets")
	strikeAll(s.sides, f, func() { s.site.Lab.Drop() })
	backstage.Sleep(ctx, silence(s))
	s.tell.say("router", "forwards again")
	s.both((*side).back)
	s.site.Lab.Heal()
	// Retransmissions back off: the next may come as late after the silence
	// as that was long.
	backstage.Sleep(ctx, max(s.settle, silence(s)*2/3))
	return nil
}

func forget(ctx context.Context, s *stage, f fault) error {
	s.tell.say("router", "forgets all flows")
	strikeAll(s.sides, f, s.site.Lab.ForgetNAT)
	backstage.Sleep(ctx, silence(s))
	return nil
}

// resume brings all workers back at once.
func (s *stage) resume(ctx context.Context) {
	s.crew.rush(ctx)
	s.crew.gate.Open(s.crew.size)
	backstage.Sleep(ctx, s.settle)
}

// run plays a fault and returns what it did, a row for each side.
func (s *stage) run(ctx context.Context, f fault) ([]row, error) {
	if f.lab && s.site.Lab == nil {
		s.tell.say("skipped", "%s", s.site.NoLab)
		return []row{{fault: f.name, skipped: s.site.NoLab}}, nil
	}
	s.crew.gate.Open(s.crew.size)
	s.crew.rush(ctx)
	backstage.Sleep(ctx, s.settle/2)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.play(ctx, s, f); err != nil {
		return nil, err
	}
	var rows []row
	s.both(func(side *side) { rows = append(rows, side.closeRow()) })
	return rows, ctx.Err()
}
