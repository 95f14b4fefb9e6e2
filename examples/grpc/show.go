package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// result is what one fault did.
type result struct {
	fault   fault
	skipped string // why it did not take place
	rows    []row
}

// show plays the whole script and returns the program's exit code. The error
// says why it could not be played.
func show(interrupt context.Context, o options, out io.Writer) (code int, err error) {
	ctx, cancel := context.WithCancelCause(interrupt)
	defer cancel(nil)
	site, err := backstage.NewSite(o.Lab, 2, func(err error) { cancel(err) })
	if err != nil {
		return backstage.ExitFailed, err
	}
	defer site.Close()
	s := &stage{pace: o.pace, detect: o.Detect, workers: o.Workers, site: site}
	introduce(out, s)
	results, idle, err := s.play(ctx, out)
	broken := conclude(out, s, results, idle)
	return backstage.Verdict(interrupt, err, broken)
}

// play plays all faults, and then waits for the idle streams' time to pass.
func (s *stage) play(ctx context.Context, out io.Writer) (results []result, streams []stream, err error) {
	faults := script(s)
	parts := len(faults)
	var idle *idlers
	if s.idle > 0 {
		parts++
		if idle, err = newIdlers(s.detect); err != nil {
			return nil, nil, err
		}
		defer idle.close()
	}
	for i, f := range faults {
		fmt.Fprint(out, backstage.Head(i+1, parts, f.name, f.what))
		if f.lab && s.site.Lab == nil {
			fmt.Fprintf(out, "  skipped: %s\n", s.site.NoLab)
			results = append(results, result{fault: f, skipped: s.site.NoLab})
			continue
		}
		rows, err := s.run(ctx, f)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return results, nil, err
		}
		results = append(results, result{fault: f, rows: rows})
	}
	if idle == nil {
		return results, nil, nil
	}
	fmt.Fprint(out, backstage.Head(parts, parts, idleName, idleWhat(s.idle)))
	backstage.Sleep(ctx, time.Until(idle.began.Add(s.idle)))
	return results, idle.look(), context.Cause(ctx)
}

func introduce(out io.Writer, s *stage) {
	fmt.Fprintf(out, "%d workers on each side make calls with a deadline of %s each, over\n%s.\nEvery second worker's calls wait for a connection (WaitForReady), the others' fail while there is none.\n",
		s.workers, backstage.Short(s.deadline), s.site)
	fmt.Fprintf(out, "%-16s gRPC as it comes.\n", ordinary)
	fmt.Fprintf(out, "%-16s with keepalive (10 s, %s, also without streams) and a backoff as short as holdfast's.\n", tuned, backstage.Short(s.detect))
	fmt.Fprintf(out, "%-16s grpcclient.DialOptions, DetectWithin %s.\n", level1, backstage.Short(s.detect))
	fmt.Fprintf(out, "%-16s grpcclient.NewPool of 2, the same.\n", level2)
}

// nameWidth has room for the names in front of the promises.
const nameWidth = 36

// conclude prints the table and the promises, and returns how many promises were
// broken.
func conclude(out io.Writer, s *stage, results []result, idle []stream) (broken int) {
	if len(results) == 0 {
		return 0
	}
	fmt.Fprintln(out)
	printTable(out, results, idle)
	fmt.Fprint(out, "\n"+legend+"\nholdfast's promises:\n")
	for _, r := range results {
		if r.skipped != "" {
			fmt.Fprintf(out, "skipped %s\n", r.fault.name)
			continue
		}
		for _, row := range r.rows {
			if holdfast(row.level) {
				broken += backstage.PrintPromises(out, r.fault.name+", "+row.level, nameWidth, r.fault.keeps(row, s))
			}
		}
	}
	return broken + backstage.PrintPromises(out, idleName, nameWidth, idleKeeps(idle))
}
