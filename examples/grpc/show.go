package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"
)

// pace says how long the parts of the show take.
type pace struct {
	think    time.Duration // a worker's pause between two calls
	settle   time.Duration // how long the work goes on before a fault
	away     time.Duration // how long the server is away, or the network
	watched  time.Duration // how long the work goes on after that
	deadline time.Duration // of each call
}

var defaultPace = pace{
	think:    50 * time.Millisecond,
	settle:   time.Second,
	away:     6 * time.Second,
	watched:  8 * time.Second,
	deadline: 2 * time.Second,
}

// fault is something that breaks.
type fault struct {
	name   string
	lab    bool                                     // it takes one
	strike func(s *site, srv *server) error         // and it is broken
	mend   func(s *site, srv *server) error         // nil: new connections work at once
	within func(detect time.Duration) time.Duration // promised: the first success after that
}

func aSecond(time.Duration) time.Duration { return time.Second }

var faults = []fault{
	{
		name:   "server restarts",
		strike: func(_ *site, srv *server) error { srv.stop(); return nil },
		mend:   func(_ *site, srv *server) error { return srv.start() },
		within: aSecond,
	}, {
		name: "packets dropped", lab: true,
		strike: func(s *site, _ *server) error { s.lab.Drop(); return nil },
		mend:   func(s *site, _ *server) error { s.lab.Heal(); return nil },
		within: aSecond,
	}, {
		name: "flows forgotten", lab: true,
		strike: func(s *site, _ *server) error { s.lab.ForgetNAT(); return nil },
		within: func(detect time.Duration) time.Duration { return detect + 2*time.Second },
	},
}

// show lets things break and prints what that cost.
func show(ctx context.Context, o options, out io.Writer) (code int, err error) {
	fail := make(chan error, 1)
	s, err := newSite(o.lab, func(err error) {
		select {
		case fail <- err:
		default:
		}
	})
	if err != nil {
		return exitFailed, err
	}
	defer s.close()
	listen, addr, err := s.listener(8080)
	if err != nil {
		return exitFailed, err
	}
	srv := &server{listen: listen}
	if err := srv.start(); err != nil {
		return exitFailed, err
	}
	defer srv.stop()
	sides, err := newSides(s, "passthrough:///"+addr, o.detect)
	if err != nil {
		return exitFailed, err
	}
	defer closeAll(sides)
	fmt.Fprintf(out, "%d workers on each side, through %v; DetectWithin %v; calls give up after %v.\n\n", o.workers, s, o.detect, o.pace.deadline)
	defer work(ctx, o, sides)()
	kept, err := breakThings(ctx, o, s, srv, sides, out)
	if err != nil {
		return exitFailed, err
	}
	select {
	case err := <-fail:
		return exitFailed, err
	default:
	}
	switch {
	case ctx.Err() != nil:
		return exitInterrupted, nil
	case !kept:
		fmt.Fprintln(out, "\nholdfast has broken a promise.")
		return exitBroken, nil
	}
	fmt.Fprintln(out, "\nholdfast has kept its promises.")
	return exitKept, nil
}

// work has the workers call, until the function is called that it returns.
func work(ctx context.Context, o options, sides []*side) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for _, side := range sides {
		for range o.workers {
			workers.Go(func() {
				for ctx.Err() == nil {
					_ = side.call(ctx, o.pace.deadline) // which keeps the books
					sleep(ctx, o.pace.think)
				}
			})
		}
	}
	return func() { cancel(); workers.Wait() }
}

// breakThings prints the table, and reports whether holdfast has kept its promises.
func breakThings(ctx context.Context, o options, s *site, srv *server, sides []*side, out io.Writer) (kept bool, err error) {
	t := &table{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), kept: true}
	defer t.w.Flush()
	fmt.Fprintln(t.w, "FAULT\tSIDE\tCALLS FAILED\tTHE LAST BEGUN\tFIRST SUCCESS")
	for _, f := range faults {
		if f.lab && s.lab == nil {
			fmt.Fprintf(t.w, "%s\tskipped: %s\n", f.name, s.noLab)
			continue
		}
		if err := f.happen(ctx, o, s, srv, sides); err != nil {
			return false, err
		}
		t.add(f, o, sides)
	}
	return t.kept, nil
}

func (f fault) happen(ctx context.Context, o options, s *site, srv *server, sides []*side) error {
	sleep(ctx, o.pace.settle)
	for _, side := range sides {
		side.strike()
	}
	if err := f.strike(s, srv); err != nil {
		return err
	}
	if f.mend != nil {
		sleep(ctx, o.pace.away)
		if err := f.mend(s, srv); err != nil {
			return err
		}
	}
	for _, side := range sides {
		side.back()
	}
	sleep(ctx, o.pace.watched)
	return nil
}

// table is what the show ends with.
type table struct {
	w    *tabwriter.Writer
	kept bool
}

func (t *table) add(f fault, o options, sides []*side) {
	name := f.name
	for i, side := range sides {
		r := side.closeRow()
		last, success := "", "> "+o.pace.watched.String()
		if r.failed > 0 {
			last = fmt.Sprintf("%.1f s after it", r.last.Sub(r.struck).Seconds())
		}
		took := o.pace.watched
		if !r.success.IsZero() {
			took = r.success.Sub(r.back)
			success = took.Round(time.Millisecond).String()
		}
		if i > 0 && took > f.within(o.detect) {
			t.kept = false
			success += " (too late)"
		}
		fmt.Fprintf(t.w, "%s\t%s\t%d\t%s\t%s\n", name, side.name, r.failed, last, success)
		name = ""
	}
}

// sleep pauses, unless the context ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
