package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// printTable prints the rows, those of one fault together.
func printTable(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tPOOL\tNOTICED\tNEXT SUCCESS\tOPERATIONS FAILED\tREPLACED\tLONGEST WAIT")
	last := ""
	for _, r := range rows {
		name := r.fault
		if name == last {
			name = ""
		}
		last = r.fault
		if r.skipped != "" {
			fmt.Fprintf(w, "%s\tskipped: %s\n", name, r.skipped)
			continue
		}
		fmt.Fprintln(w, strings.Join([]string{
			name, r.side, r.noticedText(), r.successText(), r.failedText(), fmt.Sprint(r.replaced), r.longestText(),
		}, "\t"))
	}
	_ = w.Flush()
}

const legend = `NOTICED        from the fault until the last connection that it broke had left the
               pool; where the server hangs, until the first operation was given up
NEXT SUCCESS   from when the server could be reached again
REPLACED       connections that were closed
LONGEST WAIT   of an operation, from the fault on, until it had its result or error
>              still not so at the end of the row's time
`

// noticedText is when the fault was noticed. Later than its end is never.
func (r row) noticedText() string {
	until := r.end
	if !r.severs && r.back.After(r.over) {
		until = r.back
	}
	return backstage.Span(r.struck, r.noticed, until)
}

func (r row) successText() string {
	return backstage.Span(r.back, r.success, r.end)
}

func (r row) failedText() string {
	if r.inFlight == 0 || !r.severs {
		return fmt.Sprint(r.failed)
	}
	return fmt.Sprintf("%d (%d in flight)", r.failed, r.inFlight)
}

func (r row) longestText() string {
	if r.unfinished {
		return "> " + backstage.Short(r.longest)
	}
	return backstage.Short(r.longest)
}

// slack is what a busy machine may add to any time that is promised; it
// contains the second that the guard's last question may take.
const slack = time.Second

// recovery is what can pass, in the worst case, between the end of an outage
// and the next success: a pause of pool.Config.MaxOpenBackoff before an attempt
// to connect; and when as many attempts are under way as may be, the pause
// until one of them sends its SYN again or ends. That is a second at first and
// doubles later; no pause is longer than three fifths of an attempt's time.
func recovery(detect time.Duration) time.Duration {
	const openBackoff, lastSYN = time.Second, 15 * time.Second
	return openBackoff + max(time.Second, min(detect, lastSYN)*3/5) + slack
}

func (r row) promiseNoticed(limit time.Duration) backstage.Promise {
	return backstage.AtMost("all broken connections are gone", r.noticed.Sub(r.struck), limit, r.noticed.IsZero())
}

func (r row) promiseSuccess(limit time.Duration) backstage.Promise {
	return backstage.AtMost("the next success comes", r.success.Sub(r.back), limit, r.success.IsZero())
}

func (r row) promiseWait(limit time.Duration) backstage.Promise {
	return backstage.AtMost("every operation ends", r.longest, limit, false)
}

func restartKeeps(r row, _ *stage) []backstage.Promise {
	return []backstage.Promise{
		{Text: "no operation fails", Kept: r.failed == 0, Found: fmt.Sprintf("%d failed", r.failed)},
		r.promiseNoticed(slack),
		r.promiseSuccess(slack),
	}
}

func resetKeeps(r row, s *stage) []backstage.Promise {
	// A connection used less than a millisecond ago is handed out unchecked,
	// and a reset takes its time on the way to it.
	overlap, late := max(1, s.crew.size/8), r.failed-r.inFlight
	return []backstage.Promise{
		{Text: fmt.Sprintf("no operation fails but those in flight, and %d that overlap at most", overlap), Kept: late <= overlap, Found: fmt.Sprintf("%d more", late)},
		r.promiseNoticed(slack),
		r.promiseSuccess(slack),
	}
}

func hangKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{
		r.promiseWait(s.deadline + slack),
		r.promiseSuccess(slack),
	}
}

func dropKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{
		r.promiseNoticed(s.detect + slack),
		r.promiseWait(s.detect + slack),
		r.promiseSuccess(recovery(s.detect)),
	}
}

func forgetKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{
		r.promiseNoticed(s.detect + slack),
		r.promiseWait(s.detect + slack),
		r.promiseSuccess(s.detect + slack),
	}
}

// always are the promises that have nothing to do with a particular fault.
func (s *side) always() []backstage.Promise {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []backstage.Promise{
		{Text: fmt.Sprintf("never more than %d connections", s.limit), Kept: s.peak <= s.limit, Found: fmt.Sprintf("%d at most", s.peak)},
		{Text: "no connection is handed out that the kernel knows to be dead", Kept: s.dead == 0, Found: fmt.Sprintf("%d were", s.dead)},
		{Text: "no reply reaches the wrong caller", Kept: s.wrong == 0, Found: fmt.Sprintf("%d did", s.wrong)},
	}
}
