package netlab

import (
	"sync"
	"time"
)

// Clock notes when this process stands still: what a promise takes longer for
// that is the machine's fault.
type Clock struct {
	mu     sync.Mutex
	last   time.Time // when it ticked
	stalls []stall
	delays []stall // too short to be stalls
}

const (
	clockTick  = 10 * time.Millisecond
	clockDelay = 2 * time.Millisecond // what is shorter is no delay
)

// stall is a time in which this process stood still.
type stall struct {
	end  time.Time
	took time.Duration
}

// NewClock returns a Clock that runs until the test ends.
func NewClock(t TB) *Clock {
	c := &Clock{last: time.Now()}
	end := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { c.run(end) })
	t.Cleanup(func() { close(end); running.Wait() })
	return c
}

func (c *Clock) run(end <-chan struct{}) {
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.mu.Lock()
			c.note(time.Now())
			c.mu.Unlock()
		case <-end:
			return
		}
	}
}

func (c *Clock) note(now time.Time) {
	switch d := now.Sub(c.last) - clockTick; {
	case d > 2*clockTick:
		c.stalls = append(c.stalls, stall{now, d})
	case d > clockDelay:
		c.delays = append(c.delays, stall{now, d})
	}
	c.last = now
}

// Lost returns for how long this process has stood still since then.
func (c *Clock) Lost(since time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(time.Now()) // who asks may have been woken first
	return sum(c.stalls, since)
}

// Since is time.Since, less what was Lost.
func (c *Clock) Since(t time.Time) time.Duration { return time.Since(t) - c.Lost(t) }

// Delayed is Lost, and for how long this process has waited besides for its turn
// on a processor that it shares, a few milliseconds at a time.
func (c *Clock) Delayed(since time.Time) time.Duration {
	lost := c.Lost(since)
	c.mu.Lock()
	defer c.mu.Unlock()
	return lost + sum(c.delays, since)
}

func sum(stalls []stall, since time.Time) (lost time.Duration) {
	for _, s := range stalls {
		if s.end.After(since) {
			lost += min(s.took, s.end.Sub(since))
		}
	}
	return lost
}
