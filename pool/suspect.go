package pool

import (
	"math"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

// accusedFor is how long a suspect that has not been asked yet, but whose
// sibling has died, is given to answer before it may have to yield its slot.
const accusedFor = 300 * time.Millisecond

// tick is more than by what a kernel is mistaken about when a peer was heard.
const tick = 10 * time.Millisecond

// told is the guard's callback. The guard may be a step ahead of it, and
// checkouts may have the news first: whatever comes last finds out, under the
// lock, what is true then.
func (p *Pool[T]) told(e *entry[T], w *health.Watch) {
	if w.State() == health.Dead {
		p.died(e, w.Cause())
		return
	}
	var silent, grace time.Duration
	if w.State() == health.Suspect {
		silent, _ = w.Heard()
		if v, ok := p.guard.View(e.conn); ok && v.Unanswered == 0 {
			grace = accusedFor
		}
	}
	p.mu.Lock()
	state := w.State()
	if state == health.Suspect && !e.has(flagSuspect) {
		now := p.tickLocked()
		e.heardAt, e.doubtedAt = now-int64(silent), now+int64(grace)
	}
	p.heed(e, state)
}

// heed acts on what the guard thinks of an entry: nobody is given a suspect, and
// one whose peer answers again is as good as it was before. It is entered with
// the lock held and leaves without it.
func (p *Pool[T]) heed(e *entry[T], state health.State) {
	was, is := e.has(flagSuspect), state == health.Suspect
	if was == is {
		p.mu.Unlock()
		return
	}
	now := p.tickLocked()
	if is {
		e.flags.Or(flagSuspect)
		if e.state == idle {
			p.idle.remove(e)
			p.setAsideLocked(e)
		}
		p.mu.Unlock()
		return
	}
	e.flags.And(^flagSuspect)
	if e.state != suspect {
		p.mu.Unlock()
		return
	}
	p.suspects.remove(e)
	if why, over := p.overLocked(e, now); over {
		p.retireLocked(e, why, nil)
		p.dispatchLocked(now)
		p.mu.Unlock()
		p.ledger.destroy(e)
		return
	}
	var k wake[T]
	p.putBackLocked(e, &k)
	p.mu.Unlock()
	k.tell()
}

// relieve ends the suspicion of an entry that the caller owns and has used
// well, if the peer has been heard since: the guard will notice that too, but
// maybe not before somebody else gets the slot.
func (p *Pool[T]) relieve(e *entry[T]) {
	if e.watch == nil {
		return
	}
	silent, ok := e.watch.Heard()
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tickLocked()-int64(silent) > e.heardAt+int64(tick) {
		e.flags.And(^flagSuspect)
	}
}

// setAsideLocked puts an entry that nobody holds with the suspects.
func (p *Pool[T]) setAsideLocked(e *entry[T]) {
	p.noneAt = p.clock // if it was the last
	e.state = suspect
	p.suspects.pushFront(e)
	p.dispatchLocked(p.clock)
}

// usableLocked is the number of live connections that aren't set aside.
func (p *Pool[T]) usableLocked() int { return len(p.all) - p.suspects.len }

// freeSlotsLocked makes room at the limit for callers who wait, at the expense
// of suspects, the longest silent first. The first slot shows whether anything
// can be opened at all; until that is known the other suspects are spared, as
// they may be all that is left when the outage ends. After failures a connection
// that can be used must first have been good for something.
func (p *Pool[T]) freeSlotsLocked(now int64) {
	for p.suspects.len > 0 && p.total >= p.cfg.MaxConns && (p.fails == 0 || p.usableLocked() == 0) {
		coming := p.opening + p.closing
		if coming >= min(p.waiters.len, p.cfg.MaxConcurrentOpens) {
			return
		}
		e, wait := p.longestSilentLocked(now)
		if e == nil {
			p.retryInLocked(wait)
			return
		}
		if coming > 0 && (p.fails > 0 || p.openedAt <= e.doubtedAt) {
			return
		}
		p.suspects.remove(e)
		p.retireLocked(e, ReasonSilent, slotError{time.Duration(now - e.heardAt)})
		p.ledger.destroy(e) // only starts a goroutine
	}
}

// longestSilentLocked returns the suspect that has been silent the longest, of
// those that have had their time to answer, or when the first will have had it.
func (p *Pool[T]) longestSilentLocked(now int64) (longest *entry[T], wait int64) {
	wait = math.MaxInt64
	for e := p.suspects.first; e != nil; e = e.next {
		if e.doubtedAt > now {
			wait = min(wait, e.doubtedAt-now)
		} else if longest == nil || e.heardAt < longest.heardAt {
			longest = e
		}
	}
	return longest, wait
}
