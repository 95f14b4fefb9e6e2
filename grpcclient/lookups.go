package grpcclient

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// The pause between the begin of two lookups of a name: the first one's after the
// name has rested, doubled by each one after it. After one that failed it is the
// other one's, or a part of the time for which they have failed, if that is more.
// Up to a fifth is taken off it at random.
const (
	firstLookupPause  = time.Second
	failedLookupPause = 800 * time.Millisecond
	failedLookupPart  = 60
	maxLookupPause    = 30 * time.Second // gRPC's
)

// lookups is a resolver that has a name looked up soon after gRPC asks for that.
// gRPC's own resolver does it no sooner than 30 s after the time before, and if
// that failed after a backoff of up to two minutes; but it looks the name up as
// soon as it is built. So one is built for each lookup.
type lookups struct {
	cc      resolver.ClientConn
	build   func(resolver.ClientConn) (resolver.Resolver, error)
	longest time.Duration

	running sync.WaitGroup // renewals that are due or under way, and ends of resolvers

	mu      sync.Mutex
	lookup  *lookup       // the last one
	begun   time.Time     // when that began
	pause   time.Duration // from then to the next
	failing time.Time     // when the first one began of those that have failed; zero: the last one hasn't
	told    answer        // the last that gRPC was told
	toldErr error         // and what it has said to it
	toldAt  time.Time
	wanted  bool        // there is to be a next
	timer   *time.Timer // when it is due; nil: it isn't
	closed  bool
}

// begin begins a lookup.
func (r *lookups) begin() error {
	r.mu.Lock()
	now := time.Now()
	if now.Sub(r.begun) > 2*r.pause {
		r.pause = 0 // it wasn't wanted for a while
	}
	r.begun, r.pause = now, min(max(2*r.pause, firstLookupPause), r.longest)
	r.wanted = false
	l := &lookup{ClientConn: r.cc, owner: r}
	r.lookup = l
	r.mu.Unlock()

	inner, err := r.build(l)
	if err != nil {
		return err
	}
	r.mu.Lock()
	over := l.over
	if !over {
		l.inner = inner
	}
	r.mu.Unlock()
	if over {
		inner.Close()
	}
	return nil
}

// ResolveNow has the name looked up, unless that is under way.
func (r *lookups) ResolveNow(resolver.ResolveNowOptions) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lookup.reported {
		r.wanted = true
		r.schedule()
	}
}

// schedule sees to the next lookup, if it is wanted. The lock is held.
func (r *lookups) schedule() {
	if !r.wanted || !r.lookup.over || r.timer != nil || r.closed {
		return
	}
	pause := r.pause
	if !r.failing.IsZero() {
		pause = min(pause, max(failedLookupPause, time.Since(r.failing)/failedLookupPart))
	}
	pause -= rand.N(pause / 5)
	r.running.Add(1)
	r.timer = time.AfterFunc(time.Until(r.begun.Add(pause)), r.renew)
}

// renew begins the next lookup.
func (r *lookups) renew() {
	defer r.running.Done()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.timer = nil
	r.mu.Unlock()
	if err := r.begin(); err != nil { // it was built before, of the same
		r.mu.Lock()
		l := r.lookup
		r.mu.Unlock()
		l.ReportError(err)
	}
}

// Close ends all lookups.
func (r *lookups) Close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil && r.timer.Stop() {
		r.running.Done()
	}
	r.mu.Unlock()
	r.running.Wait()
	r.mu.Lock()
	inner := r.lookup.inner
	r.mu.Unlock()
	if inner != nil {
		inner.Close()
	}
}

// lookup hands on what a resolver reports of its one lookup.
type lookup struct {
	resolver.ClientConn
	owner  *lookups
	config string // the service config that it has found; the resolver's alone

	// Guarded by the owner's lock.
	inner    resolver.Resolver // does it; nil: it isn't built yet, or was closed
	reported bool
	over     bool // what it has reported was handed on
}

// first reports whether there was no report before: later ones are of lookups that
// the resolver repeats by itself, or break off as it is closed.
func (l *lookup) first() bool {
	l.owner.mu.Lock()
	defer l.owner.mu.Unlock()
	first := !l.reported
	l.reported = true
	return first
}

// ended ends the resolver, which is not to repeat its lookup by itself, and sees to
// the next one. The lock is held.
func (l *lookup) ended(failed bool) {
	r := l.owner
	l.over = true
	if inner := l.inner; inner != nil && !r.closed {
		l.inner = nil
		r.running.Go(inner.Close) // which waits for the caller of this
	}
	switch {
	case !failed:
		r.failing = time.Time{}
	case r.failing.IsZero():
		r.failing = r.begun
	}
	r.wanted = r.wanted || failed
	r.schedule()
}

// ParseServiceConfig takes a note of it.
func (l *lookup) ParseServiceConfig(js string) *serviceconfig.ParseResult {
	l.config = js
	return l.ClientConn.ParseServiceConfig(js)
}

// UpdateState hands on what was found. If that is what the lookup before has found,
// gRPC is told only as often as by its own resolver, since it would begin with the
// first address again: it might never come to the last ones.
func (l *lookup) UpdateState(s resolver.State) error {
	if !l.first() {
		return nil
	}
	r, found := l.owner, l.answer(s)
	r.mu.Lock()
	known, err := found.is(r.told) && time.Since(r.toldAt) < maxLookupPause, r.toldErr
	r.mu.Unlock()
	if !known {
		err = l.ClientConn.UpdateState(s)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !known {
		r.told, r.toldErr, r.toldAt = found, err, time.Now()
	}
	r.wanted = r.wanted || err != nil // be it for its service config
	l.ended(err != nil && len(found.addrs) == 0)
	return err
}

// ReportError hands the error on.
func (l *lookup) ReportError(err error) {
	if !l.first() {
		return
	}
	l.ClientConn.ReportError(err)
	r := l.owner
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = answer{}
	l.ended(true)
}

// answer is what a lookup has found.
type answer struct {
	addrs  []string // in order of the alphabet
	config string
	more   bool // that can't be compared
}

func (l *lookup) answer(s resolver.State) answer {
	a := answer{config: l.config, more: s.Attributes != nil || s.ServiceConfig != nil && l.config == ""}
	for _, addr := range s.Addresses {
		a.addrs = append(a.addrs, addr.Addr)
	}
	slices.Sort(a.addrs)
	return a
}

// is reports whether two answers are the same; none is the same as that there are
// no addresses.
func (a answer) is(b answer) bool {
	return len(a.addrs) > 0 && slices.Equal(a.addrs, b.addrs) && a.config == b.config && !a.more && !b.more
}
