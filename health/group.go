package health

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// group is what the connections to one remote address have in common. Those
// fields that say so are the loop's alone, the others have the Guard's lock.
type group struct {
	addr    netip.AddrPort
	head    uint32 // the index of the first member's entry + 1
	members int
	merged  [3]*Policy // the last two that were merged, and the result

	// The loop's. Times are on the Guard's clock.
	trials     int   // open
	silent     int   // of them, those that have left silentAfter probes unanswered
	answeredAt int64 // when a suspect last turned out to be alive
	heardAt    int64 // when any of those that became suspects was last heard
	freshAt    int64 // when a new connection last worked
	freshBegan int64 // and when it was begun
	canaryAt   int64 // when the last canary was sent
	canaries   int   // under way

	spreadAt    int64 // when all members were last asked because one was silent
	hasty       bool  // its suspects are to be asked at once
	accusedAt   int64 // when all members were last asked because one died
	accusedPath bool  // and of what
}

// merge returns what does both policies justice, each of which may be nil.
func (g *group) merge(a, b *Policy) *Policy {
	switch {
	case a == nil || a == b:
		return b
	case b == nil:
		return a
	case g.merged[0] == a && g.merged[1] == b:
		return g.merged[2]
	}
	cfg := a.cfg
	switch {
	case a.cfg.Yields && !b.cfg.Yields:
		cfg.DetectWithin, cfg.FreshFor = b.cfg.DetectWithin, b.cfg.FreshFor
	case b.cfg.Yields && !a.cfg.Yields:
	default:
		cfg.DetectWithin = min(cfg.DetectWithin, b.cfg.DetectWithin)
		if cfg.FreshFor < 0 || b.cfg.FreshFor > 0 && b.cfg.FreshFor < cfg.FreshFor {
			cfg.FreshFor = b.cfg.FreshFor
		}
	}
	cfg.Yields = a.cfg.Yields && b.cfg.Yields
	cfg.AskedBeforeUse = a.cfg.AskedBeforeUse || b.cfg.AskedBeforeUse
	if cfg.Dial == nil {
		cfg.Dial = b.cfg.Dial
	}
	cfg.StateChanged = nil // each Watch has its own
	g.merged = [3]*Policy{a, b, {cfg: cfg}}
	return g.merged[2]
}

const (
	canaryEvery   = time.Second
	canaryTimeout = time.Second
	maxCanaries   = 16 // of all groups
)

// canary is what became of a canary: a connection that is opened only to learn
// whether its address answers.
type canary struct {
	group *group
	began int64
	err   error
}

// sendCanary finds out whether a new connection to the group's address works,
// unless that is under way, was done lately, or can't be done.
func (l *loop) sendCanary(g *group, p *Policy, patience time.Duration, now int64) {
	dial := l.guard.dial
	if dial == nil {
		dial = p.cfg.Dial
	}
	if dial == nil || g.canaries > 0 || l.canaries >= maxCanaries || g.canaryAt != 0 && now-g.canaryAt < int64(max(canaryEvery, p.cfg.DetectWithin/100)) {
		return
	}
	g.canaryAt = now
	g.canaries++
	l.canaries++
	ctx, cancel := l.limit(l.guard.ctx, max(canaryTimeout, patience))
	var back sync.Once
	report := func(err error) {
		back.Do(func() {
			l.guard.post(func(in *inbox) { in.canaries = append(in.canaries, canary{g, now, err}) })
		})
	}
	stop := context.AfterFunc(ctx, func() { report(ctx.Err()) }) // a Dial may forget its context
	l.guard.canaries.Go(func() {
		defer cancel()
		c, err := dial(ctx, "tcp", g.addr.String())
		if err == nil {
			c.Close()
		}
		report(err)
		stop()
	})
}

// canaryBack takes note of what became of a canary.
func (l *loop) canaryBack(c canary, now int64) {
	c.group.canaries--
	l.canaries--
	if c.err == nil {
		l.fresh(c.group, c.began, now)
	}
}

// fresh takes note of a new connection that works. What has been silent so far
// is asked again now: an outage may just have ended.
func (l *loop) fresh(g *group, began, now int64) {
	g.freshBegan, g.freshAt = began, now
	if g.trials > 0 {
		l.hasten(g)
	}
}
