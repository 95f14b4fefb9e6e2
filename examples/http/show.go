package main

import (
	"context"
	"fmt"
	"io"

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
	cert, roots, err := certify()
	if err != nil {
		return backstage.ExitFailed, err
	}
	site, err := backstage.NewSite(o.Lab, 1, func(err error) { cancel(err) })
	if err != nil {
		return backstage.ExitFailed, err
	}
	defer site.Close()
	s := &stage{pace: o.pace, detect: o.Detect, workers: o.Workers, site: site, cert: cert, roots: roots}
	introduce(out, s)
	results, err := s.play(ctx, out)
	broken := conclude(out, s, results)
	return backstage.Verdict(interrupt, err, broken)
}

// play plays all faults.
func (s *stage) play(ctx context.Context, out io.Writer) (results []result, err error) {
	faults := script(s)
	for i, f := range faults {
		fmt.Fprint(out, backstage.Head(i+1, len(faults), f.name, f.what))
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
			return results, err
		}
		results = append(results, result{fault: f, rows: rows})
	}
	return results, nil
}

func introduce(out io.Writer, s *stage) {
	fmt.Fprintf(out, "%d workers on each side send requests with a deadline of %s each, every eighth a POST, to a server\nthat takes %s to answer, over %s.\n",
		s.workers, backstage.Short(s.deadline), backstage.Short(s.takes), s.site)
	fmt.Fprintf(out, "%-15s http.DefaultTransport, but for MaxIdleConnsPerHost.\n", ordinary)
	fmt.Fprintf(out, "%-15s httpclient.NewTransport, DetectWithin %s.\n", level1, backstage.Short(s.detect))
	fmt.Fprintf(out, "%-15s httpclient.New, the same.\n", level2)
}

// nameWidth has room for the names in front of the promises.
const nameWidth = 45

// conclude prints the table and the promises, and returns how many promises were
// broken.
func conclude(out io.Writer, s *stage, results []result) (broken int) {
	if len(results) == 0 {
		return 0
	}
	fmt.Fprintln(out)
	printTable(out, results)
	fmt.Fprint(out, "\n"+legend+"\nholdfast's promises:\n")
	for _, r := range results {
		if r.skipped != "" {
			fmt.Fprintf(out, "skipped %s\n", r.fault.name)
			continue
		}
		for _, row := range r.rows {
			keeps := r.fault.keeps
			switch row.level {
			case ordinary:
				continue
			case level1:
				keeps = r.fault.first
			}
			if keeps != nil {
				name := fmt.Sprintf("%s, %s, %s", r.fault.name, row.protocol, row.level)
				broken += backstage.PrintPromises(out, name, nameWidth, keeps(row, s))
			}
		}
	}
	return broken + backstage.PrintPromises(out, "at all times", nameWidth, always(results))
}
