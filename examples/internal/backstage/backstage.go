// Package backstage has what the programs of this module share: how they are
// started, where their servers and clients are, how they let workers work, and how
// they print.
package backstage

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Sleep sleeps for d or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Short is a duration with two digits and a unit that suits it.
func Short(d time.Duration) string {
	switch {
	case d < 9950*time.Microsecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < 995*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// Span is how long it took from one time to another, in short; if that never came
// it is more than until end.
func Span(from, to, end time.Time) string {
	if to.IsZero() {
		return "> " + Short(end.Sub(from))
	}
	return Short(to.Sub(from))
}

// Head is what a part of a show begins with.
func Head(part, of int, name, what string) string {
	return fmt.Sprintf("\n%d of %d: %s\n%s\n", part, of, name, Wrap(what, "  ", 96))
}

// Wrap breaks a text into lines of at most width characters.
func Wrap(text, indent string, width int) string {
	var b strings.Builder
	n := width
	for _, word := range strings.Fields(text) {
		if n+1+len(word) > width {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(indent)
			n = len(indent)
		} else {
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String()
}
