package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/health"
)

// crew are the workers of both sides.
type crew struct {
	prefix   string // of the keys
	sides    []*side
	size     int // workers on each side
	think    time.Duration
	deadline atomic.Int64 // of each operation, as a time.Duration; zero for none
	gate     backstage.Gate
	working  sync.WaitGroup
}

func newCrew(prefix string, size int, think time.Duration, sides []*side) *crew {
	return &crew{prefix: prefix, sides: sides, size: size, think: think}
}

// start starts the workers. They end with ctx, wait for them with working.
func (c *crew) start(ctx context.Context) {
	for _, s := range c.sides {
		for id := range c.size {
			c.working.Go(func() { c.work(ctx, s, id) })
		}
	}
}

// work does operations with pauses between them, so that at most moments most
// connections are idle, as in most programs.
func (c *crew) work(ctx context.Context, s *side, id int) {
	for c.gate.Pass(ctx, id) {
		c.operate(ctx, s, id, func() {})
		c.gate.Leave()
		backstage.Sleep(ctx, c.think/2+rand.N(c.think))
	}
}

// operate does one operation, the same on both sides. If it succeeds, hold is
// called before the connection is given back.
func (c *crew) operate(ctx context.Context, s *side, id int, hold func()) {
	use := ctx
	if d := time.Duration(c.deadline.Load()); d > 0 {
		var cancel context.CancelFunc
		use, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	o := s.begin()
	err := s.pool.Do(use, func(ctx context.Context, conn *client) error {
		if s.promises && health.TCP(ctx, conn.socket) != nil {
			s.handedOut(o)
		}
		if err := c.commands(ctx, conn, s, id); err != nil {
			return err
		}
		s.end(o, nil)
		hold()
		return nil
	})
	if ctx.Err() != nil {
		s.drop(o)
		return
	}
	s.end(o, err)
}

// keyLife is how long a key outlives a program that was killed.
const keyLife = 600 // seconds

var errWrongReply = errors.New("got a reply to somebody else's command")

// commands are what a worker asks of Redis: to store that it was here, and its
// own name, which nobody else's reply can be mistaken for.
func (c *crew) commands(ctx context.Context, conn *client, s *side, id int) error {
	if _, err := conn.DoContext(ctx, "SET", c.seenKey(s), time.Now().Unix(), "EX", keyLife); err != nil {
		return err
	}
	name, err := redis.String(conn.DoContext(ctx, "GET", c.nameKey(s, id)))
	if err == nil && name != workerName(s, id) {
		err = fmt.Errorf("%w: %q instead of %q", errWrongReply, name, workerName(s, id))
	}
	return err
}

func (c *crew) seenKey(s *side) string { return c.prefix + s.name + ":seen" }
func (c *crew) nameKey(s *side, id int) string {
	return fmt.Sprintf("%s%s:name:%d", c.prefix, s.name, id)
}
func workerName(s *side, id int) string { return fmt.Sprintf("worker %d of %s", id, s.name) }

// prepare writes the workers' names, clean deletes everything again. Both go to
// the server directly.
func (c *crew) prepare(ctx context.Context, conn redis.ConnWithContext) error {
	for _, s := range c.sides {
		for id := range c.size {
			if _, err := conn.DoContext(ctx, "SET", c.nameKey(s, id), workerName(s, id), "EX", keyLife); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *crew) clean(ctx context.Context, conn redis.ConnWithContext) error {
	for _, s := range c.sides {
		keys := redis.Args{c.seenKey(s)}
		for id := range c.size {
			keys = append(keys, c.nameKey(s, id))
		}
		if _, err := conn.DoContext(ctx, "DEL", keys...); err != nil {
			return err
		}
	}
	return nil
}

// rush lets every worker of a side do one operation at once, each on a
// connection of its own, which it keeps until the last has one. Afterwards the
// pools are full.
func (c *crew) rush(ctx context.Context) {
	var all sync.WaitGroup
	for _, s := range c.sides {
		var arrived, rushing sync.WaitGroup
		arrived.Add(c.size)
		for id := range c.size {
			rushing.Go(func() {
				arrive := sync.OnceFunc(arrived.Done)
				defer arrive()
				c.operate(ctx, s, id, func() { arrive(); arrived.Wait() })
			})
		}
		all.Go(rushing.Wait)
	}
	all.Wait()
}
