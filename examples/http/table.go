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
	if r.success.IsZero() {
		return "> " + backstage.Short(r.end.Sub(r.back))
	}
	return backstage.Short(r.success.Sub(r.back))
}

// promise is something that holdfast promises, and what became of it.
type promise struct {
	text  string
	kept  bool
	found string
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

func atMost(what string, took, limit time.Duration, never bool) promise {
	p := promise{text: fmt.Sprintf("%s within %s", what, backstage.Short(limit)), kept: !never && took <= limit, found: backstage.Short(took)}
	if never {
		p.found = "not at all"
	}
	return p
}

func (r row) promiseSuccess(limit time.Duration) promise {
	return atMost("the next success comes", r.success.Sub(r.back), limit, r.success.IsZero())
}

func (r row) promiseWait(limit time.Duration) promise {
	return atMost("every request ends", r.longest, limit, false)
}

func (r row) promiseGETs() promise {
	p := promise{"no GET fails", r.gets == 0, fmt.Sprintf("%d failed", r.gets)}
	if !p.kept {
		p.found += fmt.Sprintf(": %v", r.last)
	}
	return p
}

func restartKeeps(r row, _ *stage) []promise {
	return []promise{r.promiseGETs(), r.promiseSuccess(backoff + slack)}
}

func severedKeeps(r row, _ *stage) []promise {
	return []promise{r.promiseGETs(), r.promiseSuccess(slack)}
}

func forgottenIdleKeeps(r row, _ *stage) []promise {
	const promised = 500 * time.Millisecond
	return []promise{
		{"no request fails", r.gets+r.posts == 0, fmt.Sprintf("%d failed", r.gets+r.posts)},
		r.promiseWait(promised + slack),
	}
}

func forgottenKeeps(r row, s *stage) []promise {
	// A request in flight waits until its connection is given up, which the
	// guard's last question may delay by a second, and is repeated then.
	return []promise{r.promiseGETs(), r.promiseWait(s.detect + time.Second + slack)}
}

func transportKeeps(r row, s *stage) []promise {
	limit := s.detect + time.Second + slack
	return []promise{r.promiseWait(limit), r.promiseSuccess(limit)}
}

func droppedKeeps(r row, s *stage) []promise {
	return []promise{r.promiseWait(s.deadline + slack), r.promiseSuccess(recovery(s.detect))}
}

// always are the promises that have nothing to do with a particular fault or
// level.
func always(results []result) []promise {
	twice, wrong := 0, 0
	for _, r := range results {
		for _, row := range r.rows {
			if row.level != ordinary {
				twice += row.twice
				wrong += row.wrong
			}
		}
	}
	return []promise{
		{"no POST is executed twice", twice == 0, fmt.Sprintf("%d were", twice)},
		{"no answer reaches the wrong caller", wrong == 0, fmt.Sprintf("%d did", wrong)},
	}
}

// printPromises prints them under the name of their fault, and returns how many
// were broken.
func printPromises(out io.Writer, name string, promises []promise) (broken int) {
	for _, p := range promises {
		verdict := "kept  "
		if !p.kept {
			verdict = "BROKEN"
			broken++
		}
		fmt.Fprintf(out, "%s  %-45s %s (%s)\n", verdict, name, p.text, p.found)
	}
	return broken
}
