package main

import (
	"context"
	"errors"
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
		return exitFailed, err
	}
	site, err := newSite(o.lab, func(err error) { cancel(err) })
	if err != nil {
		return exitFailed, err
	}
	defer site.close()
	s := &stage{pace: o.pace, detect: o.detect, workers: o.workers, site: site, cert: cert, roots: roots}
	introduce(out, s)
	results, err := s.play(ctx, out)
	broken := conclude(out, s, results)
	switch {
	case interrupt.Err() != nil:
		return exitInterrupted, errors.New("interrupted")
	case err != nil:
		return exitFailed, err
	case broken > 0:
		return exitBroken, nil
	}
	return exitKept, nil
}

// play plays all faults.
func (s *stage) play(ctx context.Context, out io.Writer) (results []result, err error) {
	faults := script(s)
	for i, f := range faults {
		fmt.Fprintf(out, "\n%d of %d: %s\n%s\n", i+1, len(faults), f.name, backstage.Wrap(f.what, "  ", 96))
		if f.lab && s.site.lab == nil {
			fmt.Fprintf(out, "  skipped: %s\n", s.site.noLab)
			results = append(results, result{fault: f, skipped: s.site.noLab})
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
				broken += printPromises(out, name, keeps(row, s))
			}
		}
	}
	return broken + printPromises(out, "at all times", always(results))
}
