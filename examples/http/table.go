package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// row is what one fault did to one side.
type row struct {
	level, protocol string

	struck  time.Time // when the fault came
	over    time.Time // when it had come
	back    time.Time // from when on the server could be reached
	end     time.Time // of watching
	success time.Time // the first one after back

	gets, posts int // that failed
	wrong       int // of them, those that got somebody else's answer
	twice       int // POSTs that were executed more than once
	longest     time.Duration
	last        error // a failure
}

func (r *row) ended(q *request, now time.Time, err error) {
	began := q.began
	if began.Before(r.struck) {
		began = r.struck
	}
	r.longest = max(r.longest, now.Sub(began))
	switch {
	case err != nil:
		r.last = err
		if q.post {
			r.posts++
		} else {
			r.gets++
		}
		if errors.Is(err, errWrongAnswer) {
			r.wrong++
		}
	case r.success.IsZero() && !r.over.IsZero() && q.began.After(r.over): // earlier ones had their answer already, maybe
		r.success = now
	}
}

// printTable prints a line for each fault and protocol.
func printTable(out io.Writer, results []result) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, level := range levels {
		fmt.Fprintf(w, "\t%s\t\t", level)
	}
	fmt.Fprint(w, "\nFAULT\tPROTOCOL")
	for range levels {
		fmt.Fprint(w, "\tFAILED\tLONGEST\tNEXT")
	}
	fmt.Fprintln(w)
	for _, r := range results {
		if r.skipped != "" {
			fmt.Fprintf(w, "%s\tskipped: %s\n", r.fault.name, r.skipped)
			continue
		}
		name := r.fault.name
		for _, protocol := range protocols {
			fmt.Fprintf(w, "%s\t%s", name, protocol)
			name = ""
			for _, row := range r.rows {
				if row.protocol == protocol {
					fmt.Fprintf(w, "\t%d+%d\t%s\t%s", row.gets, row.posts, backstage.Short(row.longest), row.successText())
				}
			}
			fmt.Fprintln(w)
		}
	}
	_ = w.Flush()
}

const legend = `FAILED   GETs + POSTs that failed
LONGEST  time that a request took from the fault on, until it had its answer or error
NEXT     success: after so long, from when the server could be reached again
>        still none at the end of the row's time
`

func (r row) successText() string {
	return backstage.Span(r.back, r.success, r.end)
}

// slack is what a busy machine may add to any time that is promised.
const slack = time.Second

// backoff is the longest pause between two attempts to connect.
const backoff = time.Second

// recovery is what can pass, in the worst case, between the end of an outage and
// the next success: a pause before an attempt to connect, and one until an attempt
// that is under way sends its SYN again.
func recovery(detect time.Duration) time.Duration {
	return backoff + max(time.Second, detect*3/5) + slack
}

func (r row) promiseSuccess(limit time.Duration) backstage.Promise {
	return backstage.AtMost("the next success comes", r.success.Sub(r.back), limit, r.success.IsZero())
}

func (r row) promiseWait(limit time.Duration) backstage.Promise {
	return backstage.AtMost("every request ends", r.longest, limit, false)
}

func (r row) promiseGETs() backstage.Promise {
	p := backstage.Promise{Text: "no GET fails", Kept: r.gets == 0, Found: fmt.Sprintf("%d failed", r.gets)}
	if !p.Kept {
		p.Found += fmt.Sprintf(": %v", r.last)
	}
	return p
}

func restartKeeps(r row, _ *stage) []backstage.Promise {
	return []backstage.Promise{r.promiseGETs(), r.promiseSuccess(backoff + slack)}
}

func severedKeeps(r row, _ *stage) []backstage.Promise {
	return []backstage.Promise{r.promiseGETs(), r.promiseSuccess(slack)}
}

func forgottenIdleKeeps(r row, _ *stage) []backstage.Promise {
	const promised = 500 * time.Millisecond
	return []backstage.Promise{
		{Text: "no request fails", Kept: r.gets+r.posts == 0, Found: fmt.Sprintf("%d failed", r.gets+r.posts)},
		r.promiseWait(promised + slack),
	}
}

func forgottenKeeps(r row, s *stage) []backstage.Promise {
	// A request in flight waits until its connection is given up, which the
	// guard's last question may delay by a second, and is repeated then.
	return []backstage.Promise{r.promiseGETs(), r.promiseWait(s.detect + time.Second + slack)}
}

func transportKeeps(r row, s *stage) []backstage.Promise {
	limit := s.detect + time.Second + slack
	return []backstage.Promise{r.promiseWait(limit), r.promiseSuccess(limit)}
}

func droppedKeeps(r row, s *stage) []backstage.Promise {
	return []backstage.Promise{r.promiseWait(s.deadline + slack), r.promiseSuccess(recovery(s.detect))}
}

// always are the promises that have nothing to do with a particular fault or
// level.
func always(results []result) []backstage.Promise {
	twice, wrong := 0, 0
	for _, r := range results {
		for _, row := range r.rows {
			if row.level != ordinary {
				twice += row.twice
				wrong += row.wrong
			}
		}
	}
	return []backstage.Promise{
		{Text: "no POST is executed twice", Kept: twice == 0, Found: fmt.Sprintf("%d were", twice)},
		{Text: "no answer reaches the wrong caller", Kept: wrong == 0, Found: fmt.Sprintf("%d did", wrong)},
	}
}
