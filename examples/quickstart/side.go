package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/pool"
)

// doer is what both pools can do.
type doer interface {
	Do(context.Context, func(context.Context, *client) error) error
	Close(context.Context) error
}

// side is one of the two pools, and the books that are kept on it. Nothing in
// them is the pool's own word: they are kept from outside, at the moments when
// connections and operations begin and end.
type side struct {
	name     string
	promises bool // it is holdfast, and checked: each operation asks the kernel once more what it was given
	pool     doer
	fwd      *forwarder
	tell     *narrator
	limit    int // how many connections it may have

	mu      sync.Mutex
	conns   int // being opened, live, being closed
	peak    int
	done    int // operations that succeeded
	failed  int
	wrong   int // replies that belonged to somebody else
	dead    int // connections handed out that the kernel knew to be dead
	running map[*operation]struct{}
	row     *row // of the present fault; nil between faults
}

// The sides' names.
const (
	holdfast = "holdfast"
	ordinary = "plain"
)

func newSide(name string, limit int, fwd *forwarder, tell *narrator) *side {
	return &side{name: name, promises: name == holdfast, limit: limit, fwd: fwd, tell: tell, running: map[*operation]struct{}{}}
}

func (s *side) opening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns++
	s.peak = max(s.peak, s.conns)
}

func (s *side) opened(err error) {
	if err == nil {
		s.tell.event(s.name, "opened", "connection", "")
		return
	}
	s.tell.event(s.name, "failed to open", "connection", brief(err))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

func (s *side) closed(age time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
	if s.row != nil {
		s.row.closed(now, now.Add(-age))
	}
}

// trace lets a holdfast pool keep the books, and say what it does and why.
func (s *side) trace() *pool.Trace {
	return &pool.Trace{
		OpenStart: func(ctx context.Context) context.Context { s.opening(); return ctx },
		OpenDone:  func(_ context.Context, d pool.OpenDone) { s.opened(d.Err) },
		ConnClosed: func(d pool.ConnClosed) {
			s.closed(d.Age)
			why := d.Reason.String()
			if d.Err != nil {
				why += " (" + brief(d.Err) + ")"
			}
			s.tell.event(s.name, "closed", "connection", why)
		},
	}
}

// progress says how the work is going.
func (s *side) progress(now time.Time) (done int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stuck := 0
	for o := range s.running {
		if now.Sub(o.began) > time.Second/2 {
			stuck++
		}
	}
	text = fmt.Sprintf("%d failed", s.failed)
	if stuck > 0 {
		text += fmt.Sprintf(", %d stuck", stuck)
	}
	return s.done, text
}

// operation is one use of a pool, from asking for a connection to the last
// reply.
type operation struct {
	began time.Time
	over  bool
}

func (s *side) begin() *operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &operation{began: time.Now()}
	s.running[o] = struct{}{}
	return o
}

// end notes how an operation ended. What comes after the first end of it is
// not part of it.
func (s *side) end(o *operation, err error) {
	now := time.Now()
	s.mu.Lock()
	if o.over {
		s.mu.Unlock()
		return
	}
	o.over = true
	delete(s.running, o)
	switch {
	case err == nil:
		s.done++
	case errors.Is(err, errWrongReply):
		s.wrong++
		s.failed++
	default:
		s.failed++
	}
	if s.row != nil {
		s.row.ended(o.began, now, err)
	}
	s.mu.Unlock()
	if err != nil {
		s.tell.event(s.name, "failed", "operation", brief(err))
	}
}

// drop forgets an operation that was interrupted by the end of the program.
func (s *side) drop(o *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o.over = true
	delete(s.running, o)
}

// strike begins a row: act breaks something, and returns how many connections
// it broke.
func (s *side) strike(f fault, act func() int) {
	r := s.open(f)
	n := act()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.struckAll(n)
}

// strikeAll is strike for a fault that concerns all connections of all sides.
func strikeAll(sides []*side, f fault, act func()) {
	for _, s := range sides {
		s.open(f)
	}
	act()
	for _, s := range sides {
		s.mu.Lock()
		s.row.struckAll(s.row.broken)
		s.mu.Unlock()
	}
}

func (s *side) open(f fault) *row {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row = &row{fault: f.name, side: s.name, severs: f.severs, struck: time.Now(), broken: s.conns}
	return s.row
}

// handedOut notes that the kernel calls a connection dead that an operation
// has just been given. Those that asked for it while the fault was happening
// can't complain, nor those within the millisecond in which the pool doesn't
// look again.
func (s *side) handedOut(o *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.row; r == nil || !r.over.IsZero() && o.began.After(r.over.Add(2*time.Millisecond)) {
		s.dead++
	}
}

// back notes that the server can be reached again.
func (s *side) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.row.back = time.Now()
	s.row.success = time.Time{}
}

// closeRow ends the row and returns it.
func (s *side) closeRow() row {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.row
	s.row = nil
	r.end = now
	for o := range s.running {
		if d := r.waited(o.began, now); d > r.longest {
			r.longest, r.unfinished = d, true
		}
	}
	return *r
}

// row is what one fault did to one side.
type row struct {
	fault, side string
	skipped     string // why the fault did not take place
	severs      bool   // the fault ends connections, rather than silencing them

	struck, over time.Time // the fault's beginning and end
	back         time.Time // from when on the server could be reached
	end          time.Time // of watching

	broken     int       // connections that the fault broke
	gone       int       // how many of the connections from before it are closed
	noticed    time.Time // when the last of the broken ones was
	success    time.Time // the first one after back
	replaced   int       // connections that were closed
	failed     int       // operations
	inFlight   int       // those of the failed that were under way when the fault came
	longest    time.Duration
	unfinished bool // the longest was still waiting at the end
}

// closed notes a closed connection.
func (r *row) closed(now, born time.Time) {
	r.replaced++
	if born.After(r.struck) {
		return
	}
	r.gone++
	r.lastGone(now)
}

func (r *row) lastGone(now time.Time) {
	if r.noticed.IsZero() && !r.over.IsZero() && r.broken > 0 && r.gone >= r.broken {
		r.noticed = now
	}
}

// struckAll notes that the fault has happened, perhaps after it was noticed.
func (r *row) struckAll(broken int) {
	r.over = time.Now()
	r.back = r.over
	r.broken = broken
	r.lastGone(r.over)
}

func (r *row) ended(began, now time.Time, err error) {
	r.longest = max(r.longest, r.waited(began, now))
	switch {
	case err != nil:
		r.failed++
		if r.over.IsZero() || began.Before(r.over) {
			r.inFlight++
		}
	case !r.success.IsZero() || r.over.IsZero():
	case r.severs && began.Before(r.over): // its reply had come already
	default:
		r.success = now
	}
}

// waited is how long an operation waited after the fault.
func (r *row) waited(began, now time.Time) time.Duration {
	if began.Before(r.struck) {
		began = r.struck
	}
	return now.Sub(began)
}

// brief is the core of an error, without the addresses that make each
// different.
func brief(err error) string {
	var acquire *pool.AcquireError
	if errors.As(err, &acquire) {
		if acquire.OpenErr != nil {
			return "no connection, " + brief(acquire.OpenErr)
		}
		return "no connection, " + brief(acquire.Err)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	for _, known := range []error{io.ErrUnexpectedEOF, io.EOF, context.DeadlineExceeded, context.Canceled, errWrongReply, os.ErrDeadlineExceeded} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		return context.DeadlineExceeded.Error()
	}
	return fmt.Sprintf("%.80s", err)
}
