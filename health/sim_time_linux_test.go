package health

import (
	"container/heap"
	"time"
)

// simTime is virtual time with what is to happen in it.
type simTime struct {
	now    int64
	seq    int
	events []simEvent
}

type simEvent struct {
	at  int64
	seq int
	do  func()
}

func (c *simTime) Len() int { return len(c.events) }
func (c *simTime) Less(i, j int) bool {
	a, b := &c.events[i], &c.events[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (c *simTime) Swap(i, j int) { c.events[i], c.events[j] = c.events[j], c.events[i] }
func (c *simTime) Push(x any)    { c.events = append(c.events, x.(simEvent)) }
func (c *simTime) Pop() any {
	last := len(c.events) - 1
	e := c.events[last]
	c.events[last] = simEvent{}
	c.events = c.events[:last]
	return e
}

// after has something done after d.
func (c *simTime) after(d time.Duration, do func()) {
	c.seq++
	heap.Push(c, simEvent{c.now + int64(max(d, 0)), c.seq, do})
}

// next is when the next event is.
func (c *simTime) next() int64 {
	if len(c.events) == 0 {
		return never
	}
	return c.events[0].at
}

// advance lets time pass.
func (c *simTime) advance(to int64) {
	for c.next() <= to {
		e := heap.Pop(c).(simEvent)
		c.now = max(c.now, e.at)
		e.do()
	}
	c.now = max(c.now, to)
}

// simTimer is a timer of the kernel, which is late by up to an eighth.
type simTimer struct {
	armed bool
	gen   int
}

func (c *simTime) arm(t *simTimer, d time.Duration, fire func()) {
	t.armed = true
	t.gen++
	gen := t.gen
	base := c.now / jiffy
	expires := base + (int64(d)+jiffy-1)/jiffy
	shift := 0
	for start := int64(63); expires-base >= start; start *= 8 {
		shift += 3
	}
	expires = (expires>>shift + 1) << shift
	c.after(time.Duration(expires*jiffy-c.now), func() {
		if t.gen == gen && t.armed {
			t.armed = false
			fire()
		}
	})
}

func (t *simTimer) stop() { t.armed = false }
