package pool

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/jackc/puddle/v2"
)

type state uint8

const (
	opening state = iota
	idle
	inUse
	suspect // passed over until its peer answers
	closing
)

// What the guard has against an entry: bits of one word, so that a checkout
// looks at all of them at once.
const (
	flagDead     uint32 = 1 << iota // never cleared
	flagSuspect                     // the peer left a question unanswered
	flagOutdated                    // its holder has retired it, or RetireIf; never cleared
)

// entry is one connection, from the end of its dial to the end of its close.
type entry[T any] struct {
	// Set before the pool sees the entry, constant from then on.
	pool    *Pool[T]
	value   T
	conn    net.Conn      // below value; nil if there is none
	watch   *health.Watch // nil if conn can't be watched
	slot    *puddle.Resource[*entry[T]]
	epoch   uint64
	born    int64
	expires int64 // born + lifetime - jitter

	// Owned by the holder while in use, by the pool's mutex otherwise.
	fastUntil int64 // until then a checkout needs no check
	usedAt    int64 // last checkout
	provenAt  int64 // last time that the peer answered: to the open, to a ping
	leak      *leak

	// Guarded by the pool's mutex.
	round      uint64 // of asking that it was last part of
	gen        uint64 // raised whenever the holder loses it
	idleSince  int64
	prev, next *entry[T]
	index      int // in Pool.all
	state      state
	unproven   bool   // no use of it has gone well yet
	outdatedBy Reason // why flagOutdated is set

	// Set by whoever takes the entry out of the pool, read by its end.
	reason   Reason
	abortive bool
	flags    atomic.Uint32 // flagDead is set at any time, flagSuspect under the pool's mutex
	err      error

	// Guarded by the pool's mutex, of use while flagSuspect is set.
	heardAt   int64 // when the peer was last heard
	doubtedAt int64 // when it had, or will have had, its time to answer
}

func (e *entry[T]) has(flag uint32) bool { return e.flags.Load()&flag != 0 }

// useless reports whether e, if it is dead by now, was never worth its dial.
func (e *entry[T]) useless(now int64) bool {
	return e.unproven && now-e.born < int64(provenAfter)
}

// entryList is a doubly linked list, so that an event can remove any entry.
type entryList[T any] struct {
	first, last *entry[T]
	len         int
}

func (l *entryList[T]) pushFront(e *entry[T]) {
	e.prev, e.next = nil, l.first
	if l.first != nil {
		l.first.prev = e
	} else {
		l.last = e
	}
	l.first = e
	l.len++
}

func (l *entryList[T]) remove(e *entry[T]) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.last = e.prev
	}
	e.prev, e.next = nil, nil
	l.len--
}

// waiter is a caller in the queue. It leaves the queue with exactly one
// message in ready, or by its own hand.
type waiter[T any] struct {
	ready chan struct{} // capacity 1

	// Guarded by the pool's mutex until the message is sent.
	prev, next *waiter[T]
	queued     bool
	deadline   int64 // on the pool's clock; 0: none
	since      int64
	entry      *entry[T]
	gen        uint64 // entry's, when it became the waiter's
	err        error
}

// reset readies w for another turn.
func (w *waiter[T]) reset() { w.entry, w.gen, w.err = nil, 0, nil }

// waiterList is a queue that an impatient waiter can leave from the middle.
type waiterList[T any] struct {
	first, last *waiter[T]
	len         int
}

// push puts w behind all that have waited longer, which for a newcomer is the
// end. Who comes back, because the connection they got failed its check, finds
// their place near the front.
func (l *waiterList[T]) push(w *waiter[T], newcomer bool) {
	behind := l.last
	if !newcomer {
		behind = nil
		for x := l.first; x != nil && x.since <= w.since; x = x.next {
			behind = x
		}
	}
	w.prev, w.queued = behind, true
	if behind != nil {
		w.next, behind.next = behind.next, w
	} else {
		w.next, l.first = l.first, w
	}
	if w.next != nil {
		w.next.prev = w
	} else {
		l.last = w
	}
	l.len++
}

func (l *waiterList[T]) remove(w *waiter[T]) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	l.len--
}

// wake is a list, through waiter.next, of waiters that have left the queue and
// are to be told once the lock is released.
type wake[T any] struct{ first *waiter[T] }

func (k *wake[T]) add(w *waiter[T]) { w.next, k.first = k.first, w }

func (k *wake[T]) tell() {
	for w := k.first; w != nil; {
		next := w.next // w is its owner's again once told
		w.next = nil
		w.ready <- struct{}{}
		w = next
	}
}

func (p *Pool[T]) now() int64 { return int64(time.Since(p.start)) }
