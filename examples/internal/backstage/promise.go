package backstage

import (
	"fmt"
	"io"
	"time"
)

// Promise is something that holdfast promises, and what became of it.
type Promise struct {
	Text  string
	Kept  bool
	Found string
}

// AtMost promises that what is done within limit; it took so long, or was never
// done.
func AtMost(what string, took, limit time.Duration, never bool) Promise {
	p := Promise{Text: fmt.Sprintf("%s within %s", what, Short(limit)), Kept: !never && took <= limit, Found: Short(took)}
	if never {
		p.Found = "not at all"
	}
	return p
}

// PrintPromises prints them under a name, for which there are width columns, and
// returns how many were broken.
func PrintPromises(out io.Writer, name string, width int, promises []Promise) (broken int) {
	for _, p := range promises {
		verdict := "kept  "
		if !p.Kept {
			verdict = "BROKEN"
			broken++
		}
		fmt.Fprintf(out, "%s  %-*s %s (%s)\n", verdict, width, name, p.Text, p.Found)
	}
	return broken
}
