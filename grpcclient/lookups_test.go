package grpcclient

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// names is gRPC's ClientConn and its resolver at once, as far as lookups knows
// them. Each lookup takes a while and then ends as the test wants.
type names struct {
	resolver.ClientConn
	takes time.Duration
	built time.Duration // how long a resolver takes to be built, and begins meanwhile
	hears time.Duration // how long gRPC takes for each

	mu     sync.Mutex
	fail   error    // what lookups report
	bad    error    // what gRPC says to their results
	addrs  []string // the results
	config string   // with a service config, if it isn't empty
	more   any      // and with something else, if it isn't nil
	seen
}

// unread is a service config that can't be read.
const unread = "?"

// seen is what came of it.
type seen struct {
	begun           []time.Time
	updates, errors int
	open            int // resolvers
	repeated        int // lookups, by resolvers
	telling, most   int // gRPC, at once
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
	<-time.After(n.built)
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
	var found resolver.State
	var config string
	r.of.with(func() {
		err, config = r.of.fail, r.of.config
		if r.of.more != nil {
			found.Attributes = attributes.New("more", r.of.more)
		}
		for _, a := range r.of.addrs {
			found.Addresses = append(found.Addresses, resolver.Address{Addr: a})
		}
	})
	switch config {
	case "":
	case unread:
		found.ServiceConfig = &serviceconfig.ParseResult{Err: errors.New("timeout")}
	default:
		found.ServiceConfig = cc.ParseServiceConfig(config)
	}
	if err != nil {
		cc.ReportError(err)
	} else if cc.UpdateState(found) == nil {
		return
	}
	select {
	case <-time.After(1300 * time.Millisecond):
		r.of.with(func() { r.of.repeated++ })
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
	n.with(func() { n.updates++; n.telling++; n.most = max(n.most, n.telling) })
	<-time.After(n.hears)
	n.with(func() { n.telling--; err = n.bad })
	return err
}

func (n *names) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{}
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

func TestLookupsThatFailForLongComeMoreSeldom(t *testing.T) {
	n := &names{fail: errors.New("no such host"), takes: 10 * time.Millisecond}
	looking(t, n, func(r *lookups) {
		<-time.After(time.Hour)
		s := n.look()
		for i, pause := range s.pauses() {
			failing := s.begun[i].Sub(s.begun[0])
			assert.LessOrEqual(t, pause, min(5*time.Second, max(failedLookupPause, (failing+n.takes)/60)), "%v", failing)
			assert.GreaterOrEqual(t, pause, min(5*time.Second, max(failedLookupPause, failing/60))*4/5, "%v", failing)
		}
		assert.Zero(t, s.repeated, "by gRPC's resolver, beside these")
		n.with(func() { n.fail = nil })
		<-time.After(time.Minute)
		n.with(func() { n.fail = errors.New("no such host"); n.begun = nil })
		want(r, time.Second)
		<-time.After(10 * time.Second)
		assert.GreaterOrEqual(t, len(n.look().begun), 11, "its failures are forgotten when it has succeeded")
	})
}

// What is wrong may be the service config, while the addresses are in use.
func TestAddressesThatGRPCDoesNotLikeAreLookedUpAgainAsAfterALoss(t *testing.T) {
	n := &names{addrs: []string{"1.2.3.4:5"}, config: "{", bad: errors.New("bad resolver state")}
	looking(t, n, func(*lookups) {
		<-time.After(time.Minute)
		s := n.look()
		assert.GreaterOrEqual(t, len(s.begun), 12)
		assert.LessOrEqual(t, len(s.begun), 4+60/4)
		assert.LessOrEqual(t, s.updates, 3)
		assert.Zero(t, s.repeated)
		n.with(func() { n.config, n.bad = "{}", nil })
		<-time.After(5 * time.Second)
		after := n.look()
		assert.Equal(t, s.updates+1, after.updates)
		<-time.After(time.Hour)
		assert.Equal(t, after, n.look())
	})
}

// gRPC would begin with the first address again.
func TestGRPCIsToldWhatItKnowsAsOftenAsByItsOwnResolver(t *testing.T) {
	n := &names{addrs: []string{"1.2.3.4:5", "1.2.3.4:6"}}
	looking(t, n, func(r *lookups) {
		told := func(during time.Duration, change func()) int {
			<-time.After(10*time.Second + time.Millisecond) // it rests
			before := n.look().updates
			n.with(change)
			want(r, during)
			return n.look().updates - before
		}
		none := func() {}
		assert.Equal(t, 0, told(10*time.Second, none))
		assert.Equal(t, 1, told(15*time.Second, none), "it is 30 s ago")
		assert.Equal(t, 0, told(4*time.Second, func() { n.addrs = []string{"1.2.3.4:6", "1.2.3.4:5"} }), "in another order")
		assert.Equal(t, 1, told(10*time.Second, func() { n.addrs = []string{"1.2.3.4:6"} }))
		assert.Equal(t, 1, told(10*time.Second, func() { n.config = "{}" }))
		assert.Equal(t, 1, told(10*time.Second, func() { n.config = "" }))
		assert.GreaterOrEqual(t, told(6*time.Second, func() { n.more = 1 }), 2, "nobody knows whether that is the same")
		assert.GreaterOrEqual(t, told(6*time.Second, func() { n.more, n.config = nil, unread }), 2, "nor that")
		n.with(func() { n.config = "" })
		assert.Equal(t, 1, told(500*time.Millisecond, func() { n.addrs = nil }))
		assert.Equal(t, 1, told(10*time.Second, func() { n.addrs = []string{"1.2.3.4:6"} }))
	})
}

func TestAfterAnErrorGRPCIsToldWhatItKnew(t *testing.T) {
	n := &names{addrs: []string{"1.2.3.4:5"}}
	looking(t, n, func(r *lookups) {
		<-time.After(2 * time.Second)
		n.with(func() { n.fail = errors.New("no such host") })
		r.ResolveNow(resolver.ResolveNowOptions{})
		<-time.After(100 * time.Millisecond)
		require.Equal(t, 1, n.look().errors)
		n.with(func() { n.fail = nil })
		<-time.After(2 * time.Second)
		assert.Equal(t, 2, n.look().updates)
	})
}

func TestALookupBeginsWhenGRPCHasHeardOfTheOneBefore(t *testing.T) {
	n := &names{takes: 10 * time.Millisecond, hears: 3 * time.Second}
	looking(t, n, func(r *lookups) {
		want(r, time.Minute)
		s := n.look()
		assert.Equal(t, 1, s.most)
		assert.GreaterOrEqual(t, len(s.begun), 10, "those that were wanted meanwhile come then")
	})
}

func TestBetweenLookupsThereIsNoResolver(t *testing.T) {
	for name, n := range map[string]*names{
		"success":    {},
		"a fast one": {built: 5 * time.Millisecond},
		"an error":   {fail: errors.New("no such host"), takes: 10 * time.Millisecond},
		"no address": {bad: errors.New("bad resolver state")},
	} {
		t.Run(name, func(t *testing.T) {
			looking(t, n, func(*lookups) {
				<-time.After(11 * time.Millisecond)
				s := n.look()
				assert.Equal(t, 1, s.updates+s.errors)
				assert.Zero(t, s.open)
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
