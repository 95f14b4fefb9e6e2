package grpcclient

import (
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

// The pause between the begin of two lookups of a name: the first one's after the
// name has rested, doubled by each one after it, and the longest one's after one
// that failed. Up to a fifth is taken off it at random.
const (
	firstLookupPause  = time.Second
	failedLookupPause = 800 * time.Millisecond
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

	renewals sync.WaitGroup // that are due or under way

	mu     sync.Mutex
	inner  resolver.Resolver // nil while it is being built
	lookup *lookup           // the one that inner is for
	begun  time.Time         // when that began
	pause  time.Duration     // from then to the next
	wanted bool              // there is to be a next
	timer  *time.Timer       // when it is due; nil: it isn't
	closed bool
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
	defer r.mu.Unlock()
	r.inner = inner
	r.schedule()
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
	if !r.wanted || r.inner == nil || r.timer != nil || r.closed {
		return
	}
	pause := r.pause
	if r.lookup.failed {
		pause = min(pause, failedLookupPause)
	}
	pause -= rand.N(pause / 5)
	r.renewals.Add(1)
	r.timer = time.AfterFunc(time.Until(r.begun.Add(pause)), r.renew)
}

// unschedule takes back what schedule has done, unless it happens already. The
// lock is held.
func (r *lookups) unschedule() {
	if r.timer != nil && r.timer.Stop() {
		r.timer = nil
		r.renewals.Done()
	}
}

// renew replaces the resolver that has done its lookup.
func (r *lookups) renew() {
	defer r.renewals.Done()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.timer = nil
	old := r.inner
	r.inner = nil
	r.mu.Unlock()

	old.Close()
	if err := r.begin(); err != nil { // it was built before, of the same
		r.mu.Lock()
		r.inner = settled{}
		l := r.lookup
		r.mu.Unlock()
		l.ReportError(err)
	}
}

// Close ends all lookups.
func (r *lookups) Close() {
	r.mu.Lock()
	r.closed = true
	r.unschedule()
	r.mu.Unlock()
	r.renewals.Wait()
	r.inner.Close()
}

// lookup hands on what a resolver reports of its one lookup.
type lookup struct {
	resolver.ClientConn
	owner *lookups

	// Guarded by the owner's lock.
	reported bool
	failed   bool
}

// first reports whether there was no report before: later ones are of lookups that
// the resolver repeats by itself, and may break off when it is closed.
func (l *lookup) first() bool {
	l.owner.mu.Lock()
	defer l.owner.mu.Unlock()
	first := !l.reported
	l.reported = true
	return first
}

// ended notes how the lookup ended. One that failed is followed by another.
func (l *lookup) ended(err error) {
	if err == nil {
		return
	}
	r := l.owner
	r.mu.Lock()
	defer r.mu.Unlock()
	l.failed, r.wanted = true, true
	r.unschedule() // for it is due sooner
	r.schedule()
}

// UpdateState hands the addresses on. gRPC's error means that they are no good,
// as none is.
func (l *lookup) UpdateState(s resolver.State) error {
	if !l.first() {
		return nil
	}
	err := l.ClientConn.UpdateState(s)
	l.ended(err)
	return err
}

// ReportError hands the error on.
func (l *lookup) ReportError(err error) {
	if l.first() {
		l.ClientConn.ReportError(err)
		l.ended(err)
	}
}
