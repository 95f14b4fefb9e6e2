package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// row is what one fault did to one side.
type row struct {
	level string

	struck  time.Time // when the fault came
	over    time.Time // when it had come
	back    time.Time // from when on a server could be reached
	end     time.Time // of watching
	success time.Time // the first one after back

	failed count
	later  count // those of them that began after back
	last   error // a failure of theirs; or else of any
}

// count counts calls that wait for a connection, and those that don't.
type count struct{ waiting, hasty int }

func (c *count) add(wait bool) {
	if wait {
		c.waiting++
	} else {
		c.hasty++
	}
}

func (c count) all() int       { return c.waiting + c.hasty }
func (c count) String() string { return fmt.Sprintf("%d+%d", c.waiting, c.hasty) }

func (r *row) ended(began, now time.Time, wait bool, err error) {
	later := !r.back.IsZero() && began.After(r.back)
	switch {
	case err != nil:
		r.failed.add(wait)
		if later {
			r.later.add(wait)
		}
		if later || r.later.all() == 0 {
			r.last = err
		}
	case r.success.IsZero() && !r.over.IsZero() && began.After(r.over): // earlier ones had their answer already, maybe
		r.success = now
	}
}

// printTable prints a line for each fault and level.
func printTable(out io.Writer, results []result, idle []stream) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tSIDE\tFAILED\tLATER\tNEXT")
	for _, r := range results {
		if r.skipped != "" {
			fmt.Fprintf(w, "%s\tskipped: %s\n", r.fault.name, r.skipped)
			continue
		}
		name := r.fault.name
		for _, row := range r.rows {
			fmt.Fprintf(w, "%s\t%s\t%v\t%v\t%s\n", name, row.level, row.failed, row.later, backstage.Span(row.back, row.success, row.end))
			name = ""
		}
	}
	name := idleName
	for _, s := range idle {
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, s.level, s.fate())
		name = ""
	}
	_ = w.Flush()
}

const legend = `FAILED  calls that failed: those that wait for a connection + those that don't, gRPC's default
LATER   those of them that began when a server could be reached again: at once, where flows are
        forgotten or one server of two is gone
NEXT    success: after so long, from when a server could be reached again
>       still none at the end of the row's time
`

func (r row) promiseSuccess(limit time.Duration) backstage.Promise {
	return backstage.AtMost("the next success comes", r.success.Sub(r.back), limit, r.success.IsZero())
}

// promiseFailures promises that so many calls fail at most.
func (r row) promiseFailures(text string, failed, limit int) backstage.Promise {
	p := backstage.Promise{Text: text, Kept: failed <= limit, Found: fmt.Sprintf("%d failed", failed)}
	if !p.Kept {
		p.Found += fmt.Sprintf(": %v", r.last)
	}
	return p
}

// awayKeeps is for a server that can't be reached for a while.
func awayKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{
		r.promiseSuccess(time.Second + s.slack),
		r.promiseFailures("no call fails that begins later and waits for a connection", r.later.waiting, 0),
	}
}

func forgottenIdleKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{r.promiseFailures("no call fails", r.failed.all(), 0)}
}

// lostKeeps is for connections that are lost in the middle of the work.
func lostKeeps(r row, s *stage) []backstage.Promise {
	const each = 2
	text := fmt.Sprintf("%d calls of each worker fail at most", each)
	return []backstage.Promise{
		r.promiseSuccess(s.detect + 2*time.Second + s.slack),
		r.promiseFailures(text, r.failed.all(), each*s.workers),
	}
}

// idleKeeps is for the idle streams, at the end of their time.
func idleKeeps(idle []stream) (promises []backstage.Promise) {
	for _, s := range idle {
		if holdfast(s.level) {
			promises = append(promises, backstage.Promise{Text: "the stream of " + s.level + " is not ended", Kept: s.err == nil, Found: s.fate()})
		}
	}
	return promises
}
