package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

// narrator writes what happens, line by line. Equal events that come in a
// flood become one line. On a terminal the progress line stays at the bottom.
type narrator struct {
	out      io.Writer
	terminal bool
	began    time.Time
	progress func() string
	done     chan struct{}
	ended    chan struct{}

	mu     sync.Mutex
	floods map[flood]*extent
	bottom bool // the last line is the progress
}

// flood is a kind of event: somebody did something to so many things, because.
type flood struct{ who, did, what, why string }

type extent struct {
	n           int
	first, last time.Time
}

const (
	calm          = 200 * time.Millisecond // a flood's length, at most, before it is told
	plainProgress = 2 * time.Second        // between progress lines in a file or pipe
)

func newNarrator(out io.Writer) *narrator {
	return &narrator{
		out: out, terminal: isTerminal(out), began: time.Now(), floods: map[flood]*extent{},
		done: make(chan struct{}), ended: make(chan struct{}),
	}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// start tells events and progress until stop.
func (n *narrator) start(progress func() string) {
	n.progress = progress
	go n.run()
}

func (n *narrator) stop() {
	close(n.done)
	<-n.ended
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellFloods(0)
	n.clear()
}

func (n *narrator) run() {
	defer close(n.ended)
	tick := time.NewTicker(calm / 4)
	defer tick.Stop()
	every := plainProgress
	if n.terminal {
		every = time.Second / 2
	}
	next := time.Now().Add(every)
	for {
		select {
		case <-n.done:
			return
		case now := <-tick.C:
			n.mu.Lock()
			n.tellFloods(calm)
			if now.After(next) && len(n.floods) == 0 {
				next = now.Add(every)
				n.tellProgress(now)
			}
			n.mu.Unlock()
		}
	}
}

// event notes that who did something to one more what.
func (n *narrator) event(who, did, what, why string) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	k := flood{who, did, what, why}
	e := n.floods[k]
	if e == nil {
		e = &extent{first: now}
		n.floods[k] = e
	}
	e.n++
	e.last = now
}

// say tells something at once, after what has happened before it.
func (n *narrator) say(who, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellFloods(0)
	n.line(time.Now(), who, fmt.Sprintf(format, args...))
}

// head begins a new part.
func (n *narrator) head(title, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tellFloods(0)
	n.clear()
	if n.terminal {
		title = "\x1b[1m" + title + "\x1b[0m"
	}
	fmt.Fprintf(n.out, "\n%s\n%s\n", title, text)
}

// tellFloods tells those that began so long ago.
func (n *narrator) tellFloods(age time.Duration) {
	now := time.Now()
	var ripe []flood
	for k, e := range n.floods {
		if now.Sub(e.first) >= age {
			ripe = append(ripe, k)
		}
	}
	slices.SortFunc(ripe, func(a, b flood) int {
		return cmp.Or(n.floods[a].first.Compare(n.floods[b].first), cmp.Compare(a.did, b.did))
	})
	for _, k := range ripe {
		e := n.floods[k]
		delete(n.floods, k)
		text := fmt.Sprintf("%s 1 %s", k.did, k.what)
		if e.n > 1 {
			text = fmt.Sprintf("%s %d %ss in %s", k.did, e.n, k.what, backstage.Short(e.last.Sub(e.first)))
		}
		if k.why != "" {
			text += ": " + k.why
		}
		n.line(e.first, k.who, text)
	}
}

func (n *narrator) tellProgress(now time.Time) {
	text := n.stamp(now, "workers", n.progress())
	if n.terminal {
		n.clear()
		fmt.Fprint(n.out, "\x1b[2m"+text+"\x1b[0m")
		n.bottom = true
		return
	}
	fmt.Fprintln(n.out, text)
}

func (n *narrator) line(at time.Time, who, text string) {
	n.clear()
	fmt.Fprintln(n.out, n.stamp(at, who, text))
}

func (n *narrator) stamp(at time.Time, who, text string) string {
	return fmt.Sprintf("%6.2fs  %-9s %s", at.Sub(n.began).Seconds(), who, text)
}

func (n *narrator) clear() {
	if n.bottom {
		fmt.Fprint(n.out, "\r\x1b[K")
		n.bottom = false
	}
}
