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
}

const clockTick = 10 * time.Millisecond

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
	if d := now.Sub(c.last); d > 3*clockTick {
		c.stalls = append(c.stalls, stall{now, d - clockTick})
	}
	c.last = now
}

// Lost returns for how long this process has stood still since then.
func (c *Clock) Lost(since time.Time) (lost time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(time.Now()) // who asks may have been woken first
	for _, s := range c.stalls {
		if s.end.After(since) {
			lost += min(s.took, s.end.Sub(since))
		}
	}
	return lost
}
