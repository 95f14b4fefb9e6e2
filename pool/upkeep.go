package pool

import (
	"runtime"
	"strconv"
	"strings"
	"time"
)

// upkeepBatch bounds how many connections one hold of the lock looks at.
const upkeepBatch = 256

// keepUpLocked makes sure that upkeep runs while there is something to keep
// up. An empty pool has no timer.
func (p *Pool[T]) keepUpLocked() {
	if p.closed || p.total == 0 && p.waiters.len == 0 {
		return
	}
	hurry := p.waiters.len > 0 && p.usableLocked() == 0
	if p.upkeep != nil {
		if !hurry || p.hurried {
			return
		}
		p.upkeep.Stop()
	}
	p.hurried = hurry
	p.upkeepID++
	id := p.upkeepID
	p.upkeep = time.AfterFunc(p.upkeepEvery(hurry), func() { p.doUpkeep(id) })
}

// upkeepEvery is short beside every limit that upkeep enforces. Checkouts
// enforce them to the nanosecond; this is for connections that nobody asks
// for, and, in a hurry, for callers when there is no connection.
func (p *Pool[T]) upkeepEvery(hurry bool) time.Duration {
	every := 10 * time.Second
	for _, limit := range []time.Duration{p.cfg.MaxConnIdleTime, p.cfg.MaxConnLifetime, p.cfg.LeakTimeout} {
		if limit > 0 {
			every = min(every, limit/16)
		}
	}
	if p.cfg.Ping != nil {
		every = min(every, p.cfg.PingPeriod/16)
	}
	if hurry {
		every = min(every, p.cfg.DetectWithin/16)
	}
	return max(every, time.Millisecond)
}

// doUpkeep closes what is idle beyond its time, reports leaks, fails stranded
// callers and refills MinIdleConns. It does no I/O and takes no connection
// that somebody could use.
func (p *Pool[T]) doUpkeep(id int) {
	p.mu.Lock()
	if p.closed || id != p.upkeepID { // too late to be stopped when it was replaced
		p.mu.Unlock()
		return
	}
	p.work.Add(1)
	defer p.work.Done()
	var k wake[T]
	now := p.tickLocked()
	if p.openErr != nil {
		p.failStrandedLocked(now, &k)
	}
	var out []*entry[T]
	var leaks []leak
	for i := len(p.all) - 1; i >= 0; i-- {
		if i >= len(p.all) { // others took some out while the lock was free
			continue
		}
		if e := p.all[i]; e.state == idle || e.state == suspect {
			if e.state == idle && e.unproven && !e.useless(now) {
				p.provenLocked(e)
			}
			if why, over := p.overLocked(e, now); over {
				p.unlistLocked(e)
				p.retireLocked(e, why, nil)
				out = append(out, e)
			}
		} else if l, ok := p.leakedLocked(e, now); ok {
			leaks = append(leaks, l)
		}
		if i%upkeepBatch == 0 && i > 0 {
			p.mu.Unlock()
			p.mu.Lock()
		}
	}
	p.upkeep = nil
	p.dispatchLocked(now)
	p.keepUpLocked()
	p.mu.Unlock()
	k.tell()
	p.destroyAll(out)
	for _, l := range leaks {
		p.cfg.Trace.ConnLeaked(ConnLeaked{Held: time.Duration(now - l.since), Stack: l.stack()})
	}
}

func (p *Pool[T]) overLocked(e *entry[T], now int64) (Reason, bool) {
	if limit := p.cfg.MaxConnIdleTime; limit > 0 && now-e.idleSince >= int64(limit) {
		return ReasonIdle, true
	}
	return p.unfitLocked(e)
}

// leak remembers who acquired a connection.
type leak struct {
	since    int64
	reported bool
	n        int
	pcs      [24]uintptr
}

func (l *leak) stack() string {
	var b strings.Builder
	frames := runtime.CallersFrames(l.pcs[:l.n])
	for {
		f, more := frames.Next()
		b.WriteString(f.Function + "\n\t" + f.File + ":" + strconv.Itoa(f.Line) + "\n")
		if !more {
			return b.String()
		}
	}
}

func (p *Pool[T]) leakedLocked(e *entry[T], now int64) (leak, bool) {
	l := e.leak
	if l == nil || e.state != inUse || l.n == 0 || l.reported || now-l.since < int64(p.cfg.LeakTimeout) {
		return leak{}, false
	}
	l.reported = true
	return *l, true
}
