package health

import (
	"container/heap"
	"net"
	"time"
	"weak"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

const maxFree = 8192 // trials that are kept for others; some 2 MB

// trial is what the Guard does with a connection that is asked, or silent. Times
// are on the Guard's clock.
type trial struct {
	id        entryID
	tcp       weak.Pointer[net.TCPConn]
	group     *group
	policy    *Policy
	questions []question // of callers of Check

	base    int64 // when the peer was last heard
	begun   int64
	since   int64 // since when it has owed an answer, at the earliest
	freshAt int64 // when a new connection of the group worked since then; 0: none has
	asked   int64 // when it was last asked; in the future if the kernel waits
	due     int64 // of the next step
	next    int64 // what due becomes after the present one
	index   int   // in the heap

	closedAt   int64
	patience   time.Duration
	unanswered int
	fresh      int // of them, put after freshAt
	repeats    int // of what is in flight, when last looked at
	steps      int // since asked
	segsOut    uint32

	probed    bool // the kernel's own probe is out, it seems
	waiting   bool // for an answer whose time isn't over
	busy      bool // what is in flight asks; we don't
	accused   bool // a Suspect for a sibling's sake
	spread    bool
	counted   bool // in group.silent
	saved     bool // timers are the connection's own
	asking    bool // and have been changed
	slow      bool // the peer has closed its window; since closedAt
	condemned bool
	over      bool
	timers    sockopt.Timers
	primed    int64         // the kernel ends it at its next repetition, before this; 0: it doesn't
	hurried   time.Duration // the RTO max that we have set; negative: not to be set
}

// silence is how long the peer hasn't been heard.
func (t *trial) silence(now int64) time.Duration { return time.Duration(now - t.base) }

// afterFresh reports whether the last question was put after a new connection
// worked, in the time of this trial.
func (t *trial) afterFresh() bool {
	if t.freshAt == 0 && t.group.freshBegan >= t.since {
		t.freshAt = t.group.freshAt // there may be ever more of them
	}
	return t.freshAt != 0 && t.asked > t.freshAt
}

// begin opens a trial of a connection, whose Info is in l.info.
func (l *loop) begin(it *item, since int64) *trial {
	var t *trial
	if n := len(l.free); n > 0 {
		t, l.free = l.free[n-1], l.free[:n-1]
	} else {
		t = &trial{}
	}
	now := l.clock()
	t.id, t.group, t.policy, t.tcp = it.id, it.group, it.policy, it.tcp
	t.begun = now
	t.base = now - int64(l.info.SincePeerHeard())
	t.since = max(since, t.base)
	t.patience = patience(&l.info)
	t.due = now
	t.probed = !inFlight(&l.info) && l.info.Probes > 0
	t.group.trials++
	l.guard.wary.Store(true)
	l.byID[t.id] = t
	heap.Push(&l.due, t)
	return t
}

// end closes a trial.
func (l *loop) end(t *trial) {
	heap.Remove(&l.due, t.index)
	delete(l.byID, t.id)
	t.group.trials--
	if t.counted {
		t.group.silent--
	}
	t.over = true
	l.ended = append(l.ended, t) // its step may still be under way
}

// tryAll takes the steps that are due.
func (l *loop) tryAll() {
	for i, t := range l.ended {
		*t = trial{questions: t.questions[:0]}
		if l.ended[i] = nil; len(l.free) < maxFree {
			l.free = append(l.free, t)
		}
	}
	l.ended = l.ended[:0]
	for len(l.due) > 0 {
		now := l.clock()
		t := l.due[0]
		if t.due > now {
			return
		}
		l.touch(t)
	}
}

// attend reads the Info of a trial's connection and returns its Watch, or nil if
// that was the end of the trial: nobody watches it any more, or its owner has
// closed it.
func (l *loop) attend(t *trial) *Watch {
	it, ok := l.guard.itemOf(t.id)
	if ok && it.policy != nil {
		if l.kernel.info(it.watch, &l.info) == nil {
			l.follow(t, it.watch, it.policy)
			return it.watch
		}
	} else if c := t.tcp.Value(); c != nil { // the Watch was dropped, the connection wasn't
		if raw, err := c.SyscallConn(); err == nil {
			l.restore(t, &Watch{raw: raw})
		}
	}
	l.answer(t, Unwatched)
	l.end(t)
	return nil
}

// follow puts a trial under the policy that is now in force.
func (l *loop) follow(t *trial, w *Watch, p *Policy) {
	if t.policy == p {
		return
	}
	t.policy = p
	if far := t.far(l.clock()); t.timers.Shielded > 0 && !t.slow && !t.condemned && t.primed == 0 && l.kernel.shield(w, far) == nil {
		t.timers.Shielded = far
	}
}

// step takes a trial's next step. The connection's Info is in l.info.
func (l *loop) step(t *trial, w *Watch, now int64) {
	info := &l.info
	if info.State == sockopt.StateClose {
		l.closed(t)
		return
	}
	t.next = never
	switch {
	case t.slow:
		l.stepSlow(t, w, now)
	case t.condemned:
		l.sever(t, w, now, false)
	case now-int64(info.SincePeerHeard()) > t.base+int64(tick):
		if t.asking && info.Probes > 0 && !inFlight(info) {
			l.answeredOnce(t, w, now)
		} else {
			l.answered(t, w, now)
		}
	default:
		l.interrogate(t, w, now)
	}
	if !t.over {
		t.due = max(t.next, now+int64(time.Millisecond))
		heap.Fix(&l.due, t.index)
	}
}

// interrogate goes on with a trial whose connection is as silent as before.
func (l *loop) interrogate(t *trial, w *Watch, now int64) {
	before := t.unanswered
	if inFlight(&l.info) {
		l.stepBusy(t, now)
	} else {
		l.stepIdle(t, w, now)
	}
	if t.unanswered != before || t.accused {
		l.suspect(t, w, now)
	}
	if t.unanswered != before {
		l.answer(t, Suspect)
	}
	l.weigh(t, w, now)
}

// closed closes the trial of a connection that has ended.
func (l *loop) closed(t *trial) {
	l.deliver(t.id, anyEnd)
	if !t.over { // stopped meanwhile
		l.answer(t, Unwatched)
		l.end(t)
	}
}

// trialHeap is ordered by when trials are due.
type trialHeap []*trial

func (h trialHeap) Len() int           { return len(h) }
func (h trialHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h trialHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *trialHeap) Push(x any) {
	t := x.(*trial)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *trialHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}
