package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"
	"github.com/holdfast-go/holdfast/examples/internal/backstage"
)

type options struct {
	redis   string // address of a real server; empty for the built-in one
	workers int
	detect  time.Duration
	plain   bool
	lab     bool
	pace    pace
}

// show plays the whole script and returns the program's exit code. The error
// says why it could not be played.
func show(interrupt context.Context, o options, out io.Writer) (code int, err error) {
	ctx, cancel := context.WithCancelCause(interrupt)
	defer cancel(nil)

	server, closeServer, err := redisServer(ctx, o.redis)
	if err != nil {
		return backstage.ExitFailed, err
	}
	defer closeServer()
	site, err := backstage.NewSite(o.lab, 1, func(err error) { cancel(err) })
	if err != nil {
		return backstage.ExitFailed, err
	}
	defer site.Close()

	tell := newNarrator(out)
	sides, closeSides, err := newSides(o, server, site, tell)
	defer closeSides()
	if err != nil {
		return backstage.ExitFailed, err
	}
	prefix := fmt.Sprintf("holdfast-quickstart:%d-%08x:", os.Getpid(), rand.Uint32())
	s := &stage{
		pace: o.pace, detect: o.detect, site: site, sides: sides, tell: tell,
		crew: newCrew(prefix, o.workers, o.pace.think, sides),
	}
	if err := direct(ctx, server, s.crew.prepare); err != nil {
		return backstage.ExitFailed, err
	}
	introduce(out, o, s)
	results, playErr := s.play(ctx)
	closeSides()
	// The keys must go even if ctx has ended.
	cleanUp, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	err = direct(cleanUp, server, s.crew.clean)

	broken := conclude(out, s, results)
	switch {
	case interrupt.Err() != nil:
		return backstage.ExitInterrupted, errors.Join(errors.New("interrupted"), err)
	case playErr != nil:
		return backstage.ExitFailed, errors.Join(playErr, err)
	case err != nil:
		return backstage.ExitFailed, err
	case broken > 0:
		return backstage.ExitBroken, nil
	}
	return backstage.ExitKept, nil
}

// redisServer returns the address of the server to use.
func redisServer(ctx context.Context, addr string) (string, func(), error) {
	if addr != "" {
		return addr, func() {}, nil
	}
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		return "", nil, fmt.Errorf("starting the built-in Redis server: %w", err)
	}
	return m.Addr(), m.Close, nil
}

// direct calls f with a connection to the server that no fault touches.
func direct(ctx context.Context, addr string, f func(context.Context, redis.ConnWithContext) error) error {
	c, err := redis.DialContext(ctx, "tcp", addr, redis.DialConnectTimeout(5*time.Second), redis.DialReadTimeout(5*time.Second))
	if err != nil {
		return fmt.Errorf("connecting to Redis at %s: %w", addr, err)
	}
	defer c.Close()
	if err := f(ctx, c.(redis.ConnWithContext)); err != nil {
		return fmt.Errorf("asking Redis at %s: %w", addr, err)
	}
	return nil
}

// newSides makes the pools, each with a forwarder of its own. The returned
// function ends what was made, also after an error; it may be called again.
func newSides(o options, server string, site *backstage.Site, tell *narrator) (sides []*side, end func(), err error) {
	end = func() {
		for _, s := range sides {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if s.pool != nil {
				_ = s.pool.Close(ctx) // what it says, it says through its trace
			}
			cancel()
			s.fwd.close()
		}
		sides = nil
	}
	names := []string{holdfast, ordinary}
	if !o.plain {
		names = names[:1]
	}
	for i, name := range names {
		listen, addr, err := site.Listener(0, 6379+i)
		if err != nil {
			return sides, end, err
		}
		fwd, err := newForwarder(server, listen)
		if err != nil {
			return sides, end, err
		}
		s := newSide(name, o.workers, fwd, tell)
		sides = append(sides, s)
		if s.pool, err = s.newPool(addr, o, site); err != nil {
			s.pool = nil // instead of a nil *pool.Pool
			return sides, end, err
		}
	}
	return sides, end, nil
}

func (s *side) newPool(addr string, o options, site *backstage.Site) (doer, error) {
	if s.name == ordinary {
		return newPlain(addr, o.workers, s, site.Dial)
	}
	return newPool(addr, o.workers, o.detect, s.trace(), site.Dial, site.Guard())
}

// result is what one fault did.
type result struct {
	fault fault
	rows  []row // holdfast's first
}

// play plays all faults, and ends the work.
func (s *stage) play(ctx context.Context) ([]result, error) {
	ctx, stopWork := context.WithCancel(ctx)
	s.crew.start(ctx)
	s.tell.start(s.progress())
	defer func() {
		s.tell.stop()
		stopWork()
		s.crew.working.Wait()
	}()
	var results []result
	faults := script(s)
	for i, f := range faults {
		s.tell.head(fmt.Sprintf("%d of %d: %s", i+1, len(faults), f.name), backstage.Wrap(f.what, "  ", 96))
		rows, err := s.run(ctx, f)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return results, err
		}
		results = append(results, result{f, rows})
	}
	return results, nil
}

// progress returns a function that says how the work is going since its last
// call.
func (s *stage) progress() func() string {
	last, before := time.Now(), make([]int, len(s.sides))
	return func() string {
		now := time.Now()
		var parts []string
		for i, side := range s.sides {
			done, text := side.progress(now)
			rate := float64(done-before[i]) / now.Sub(last).Seconds()
			before[i] = done
			parts = append(parts, fmt.Sprintf("%s %.0f ops/s, %s", side.name, rate, text))
		}
		last = now
		return strings.Join(parts, " | ")
	}
}

func introduce(out io.Writer, o options, s *stage) {
	what := "a built-in Redis server"
	if o.redis != "" {
		what = "Redis at " + o.redis
	}
	fmt.Fprintf(out, "%d workers write to and read from %s\nthrough a pool of at most %d connections, over %s.\n",
		o.workers, what, o.workers, s.site)
	fmt.Fprintf(out, "holdfast: DetectWithin %s, the rest as it comes.\n", o.detect)
	if o.plain {
		fmt.Fprintln(out, "plain:    puddle and a net.Dialer, as usually written: use, and destroy after an error.")
		fmt.Fprintln(out, "Both get the same commands, faults and limits, and no deadlines, unless said.")
	}
	fmt.Fprintln(out, "Nothing is retried, so every failed operation is one that a user would see.")
}

// nameWidth has room for the names in front of the promises.
const nameWidth = 18

// conclude prints the table and the promises, and returns how many promises
// were broken.
func conclude(out io.Writer, s *stage, results []result) (broken int) {
	if len(results) == 0 {
		return 0
	}
	var rows []row
	for _, r := range results {
		rows = append(rows, r.rows...)
	}
	fmt.Fprintln(out)
	printTable(out, rows)
	fmt.Fprint(out, "\n"+legend+"\nholdfast's promises:\n")
	for _, r := range results {
		if mine := r.rows[0]; mine.skipped == "" {
			broken += backstage.PrintPromises(out, r.fault.name, nameWidth, r.fault.keeps(mine, s))
		} else {
			fmt.Fprintf(out, "skipped %s\n", r.fault.name)
		}
	}
	return broken + backstage.PrintPromises(out, "at all times", nameWidth, s.sides[0].always())
}
