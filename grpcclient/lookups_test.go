package grpcclient

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/resolver"
)

// names is gRPC's ClientConn and its resolver at once, as far as lookups knows
// them. Each lookup takes a while and then ends as the test wants.
type names struct {
	resolver.ClientConn
	takes time.Duration

	mu   sync.Mutex
	fail error // what lookups report
	bad  error // what gRPC says to their results
	seen
}

// seen is what came of it.
type seen struct {
	begun           []time.Time
	updates, errors int
	open            int // resolvers
}

// pauses are those between lookups.
func (s seen) pauses() (pauses []time.Duration) {
	for i := range s.begun[1:] {
		pauses = append(pauses, s.begun[i+1].Sub(s.begun[i]))
	}
	return pauses
}

// look waits for what is happening, and returns what was seen.
func (n *names) look() seen {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// with changes something.
func (n *names) with(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *names) build(cc resolver.ClientConn) (resolver.Resolver, error) {
	n.with(func() {
		n.begun = append(n.begun, time.Now())
		n.open++
	})
	r := &one{of: n, stop: make(chan struct{}), over: make(chan struct{})}
	go r.lookUp(cc)
	return r, nil
}

// one is a resolver that looks up once, and like gRPC's again after an error.
type one struct {
	of   *names
	stop chan struct{}
	over chan struct{}
}

func (r *one) lookUp(cc resolver.ClientConn) {
	defer close(r.over)
	select {
	case <-time.After(r.of.takes):
	case <-r.stop:
		cc.ReportError(errors.New("broken off"))
		return
	}
	var err error
	r.of.with(func() { err = r.of.fail })
	if err != nil {
		cc.ReportError(err)
	} else if cc.UpdateState(resolver.State{}) == nil {
		return
	}
	select {
	case <-time.After(1300 * time.Millisecond):
		cc.ReportError(errors.New("repeated"))
	case <-r.stop:
	}
}

func (r *one) ResolveNow(resolver.ResolveNowOptions) {}

func (r *one) Close() {
	close(r.stop)
	<-r.over
	r.of.with(func() { r.of.open-- })
}

func (n *names) UpdateState(resolver.State) (err error) {
	n.with(func() { n.updates++; err = n.bad })
	return err
}

func (n *names) ReportError(error) { n.with(func() { n.errors++ }) }

// looking calls use in virtual time, with a name that was looked up once.
func looking(t *testing.T, n *names, use func(r *lookups)) {
	synctest.Test(t, func(t *testing.T) {
		r := &lookups{cc: n, build: n.build, longest: 5 * time.Second}
		require.NoError(t, r.begin())
		use(r)
		r.Close()
		before := n.look()
		assert.Zero(t, before.open)
		r.ResolveNow(resolver.ResolveNowOptions{})
		<-time.After(time.Hour)
		assert.Equal(t, before, n.look(), "nothing happens after Close")
	})
}

// want asks for lookups as a ClientConn does that can't connect.
func want(r *lookups, during time.Duration) {
	for began := time.Now(); time.Since(began) < during; <-time.After(100 * time.Millisecond) {
		r.ResolveNow(resolver.ResolveNowOptions{})
	}
}

func TestANameIsLookedUpAtOnceIfItHasRested(t *testing.T) {
	n := &names{takes: 10 * time.Millisecond}
	looking(t, n, func(r *lookups) {
		<-time.After(time.Minute)
		r.ResolveNow(resolver.ResolveNowOptions{})
		<-time.After(time.Second)
		s := n.look()
		assert.Equal(t, []time.Duration{time.Minute}, s.pauses())
		assert.Equal(t, 2, s.updates)
		<-time.After(time.Hour)
		assert.Equal(t, s, n.look(), "unless it is wanted there is no other")
	})
}

func TestWhileAnAddressIsOfNoUseLookupsComeEverMoreSeldom(t *testing.T) {
	n := &names{takes: 10 * time.Millisecond}
	looking(t, n, func(r *lookups) {
		<-time.After(time.Minute)
		want(r, time.Minute)
		pauses := n.look().pauses()[1:]
		require.GreaterOrEqual(t, len(pauses), 12)
		assert.LessOrEqual(t, len(pauses), 3+60/4)
		for i, pause := range pauses {
			longest := []time.Duration{1, 2, 4, 5}[min(i, 3)] * time.Second
			assert.LessOrEqual(t, pause, longest, "%v", pauses)
			assert.GreaterOrEqual(t, pause, longest*4/5, "%v", pauses)
		}
	})
}

func TestAfterARestTheFirstPauseIsShortAgain(t *testing.T) {
	n := &names{}
	looking(t, n, func(r *lookups) {
		want(r, time.Minute)
		<-time.After(20 * time.Second)
		before := len(n.look().begun)
		want(r, 1500*time.Millisecond)
		assert.Len(t, n.look().begun, before+2)
	})
}

func TestALookupThatFailsIsRepeatedWithinASecond(t *testing.T) {
	for name, n := range map[string]*names{
		"an error":          {fail: errors.New("no such host")},
		"no address":        {bad: errors.New("bad resolver state")},
		"an error, at last": {fail: errors.New("timeout"), takes: 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			looking(t, n, func(*lookups) {
				<-time.After(30500 * time.Millisecond)
				s := n.look()
				assert.GreaterOrEqual(t, len(s.begun), 7)
				for _, pause := range s.pauses() {
					assert.LessOrEqual(t, pause, max(n.takes, failedLookupPause))
					assert.GreaterOrEqual(t, pause, max(n.takes, failedLookupPause*4/5))
				}
				assert.InDelta(t, len(s.begun), s.updates+s.errors, 1, "each is reported, once")
				n.with(func() { n.fail, n.bad = nil, nil })
				<-time.After(10 * time.Second)
				s = n.look()
				<-time.After(time.Hour)
				assert.Equal(t, s, n.look(), "after one that succeeds there is no other")
			})
		})
	}
}

func TestALookupIsNotBrokenOffForAnother(t *testing.T) {
	n := &names{takes: 20 * time.Second}
	looking(t, n, func(r *lookups) {
		want(r, 19*time.Second)
		assert.Len(t, n.look().begun, 1)
		<-time.After(time.Hour)
		s := n.look()
		assert.Len(t, s.begun, 1, "what it has found is new enough")
		assert.Equal(t, 1, s.updates)
	})
}

func TestALookupIsBrokenOffByClose(t *testing.T) {
	n := &names{takes: time.Hour}
	looking(t, n, func(*lookups) { <-time.After(time.Second) })
	assert.Zero(t, n.updates)
}

func TestAResolverThatCannotBeBuiltAgainIsAnErrorAndTriedAgain(t *testing.T) {
	n := &names{}
	looking(t, n, func(r *lookups) {
		<-time.After(time.Minute)
		no := true
		r.build = func(cc resolver.ClientConn) (inner resolver.Resolver, err error) {
			n.with(func() {
				if no {
					err = errors.New("no")
				}
			})
			if err != nil {
				return nil, err
			}
			return n.build(cc)
		}
		r.ResolveNow(resolver.ResolveNowOptions{})
		<-time.After(10 * time.Second)
		assert.GreaterOrEqual(t, n.look().errors, 9)
		n.with(func() { no = false })
		<-time.After(2 * time.Second)
		assert.Equal(t, 2, n.look().updates)
	})
}
