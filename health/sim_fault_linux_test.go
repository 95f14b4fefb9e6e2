package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSimTheLongIdleSurviveABlip: what was last heard long ago, because nobody
// has asked, isn't ended by the first questions that are lost.
func TestSimTheLongIdleSurviveABlip(t *testing.T) {
	for name, p := range map[string]PolicyConfig{
		"asked once per DetectWithin":    {DetectWithin: detectWithin},
		"asked before use":               {DetectWithin: detectWithin, AskedBeforeUse: true},
		"never asked":                    {DetectWithin: detectWithin, FreshFor: -1},
		"in 30 s asked once in 30":       {DetectWithin: 30 * time.Second},
		"never asked, DetectWithin 30 s": {DetectWithin: 30 * time.Second, FreshFor: -1},
	} {
		for _, use := range []string{"nothing", "Check", "a write"} {
			for _, blip := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second} {
				t.Run(fmt.Sprint(name, "/", use, "/", blip), func(t *testing.T) {
					s := newSim(t, 1)
					policy := simPolicy(t, p)
					for range 100 {
						s.open(s.host(time.Millisecond), policy, bare)
						s.run(50 * time.Millisecond)
					}
					s.run(3 * time.Minute)
					for _, h := range s.hosts {
						h.down(s.time.now, blip)
					}
					for i, c := range s.conns {
						switch use {
						case "Check":
							s.check1(c)
						case "a write": // at every phase of the sweep
							s.time.after(time.Duration(i)*5*time.Millisecond, func() { c.ours.write(1) })
						}
					}
					s.run(30 * time.Second)
					dead := s.dead()
					assert.Empty(t, len(dead), "of 100 were ended")
					if len(dead) > 0 {
						t.Log(dead[0].watch.Cause())
					}
				})
			}
		}
	}
}

// check1 asks about a connection as Check does, and doesn't wait.
func (s *sim) check1(cs ...*simConn) *pending {
	p := &pending{states: make([]State, len(cs)), left: len(cs), done: make(chan struct{})}
	s.guard.post(func(in *inbox) {
		for i, c := range cs {
			in.questions = append(in.questions, question{c.watch.id, i, p})
		}
	})
	return p
}

func (p *pending) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// TestSimDelays lets the path's delay grow and shrink, and vary.
func TestSimDelays(t *testing.T) {
	for _, detect := range []time.Duration{5 * time.Second, 10 * time.Second} {
		for _, most := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second} {
			for _, shape := range []string{"bloat", "random", "steps"} {
				for _, every := range []time.Duration{0, 3 * time.Second} {
					t.Run(fmt.Sprint(detect, " ", most, " ", shape, " ", every), func(t *testing.T) {
						s := newSim(t, 3)
						h := s.host(20 * time.Millisecond)
						p := simPolicy(t, PolicyConfig{DetectWithin: detect})
						for i := range 50 {
							s.open(h, p, derived(detect, i%2 == 0))
							s.run(20 * time.Millisecond)
						}
						s.run(5 * time.Second)
						began := s.time.now
						h.delay = func() time.Duration {
							at := float64(s.time.now-began) / float64(20*time.Second) // a cycle
							at -= float64(int(at))
							d := time.Duration(0)
							switch shape {
							case "bloat":
								d = time.Duration((1 - 2*abs(at-0.5)) * float64(most))
							case "random":
								d = time.Duration(s.rand.Float64() * float64(most))
							case "steps":
								if at > 0.5 {
									d = most
								}
							}
							return 10*time.Millisecond + d/2
						}
						if every > 0 {
							s.traffic(every)
						}
						s.run(simLength(2 * time.Minute))
						t.Log(s.suspicions(), "suspicions", s.canaries, "canaries")
						dead := s.dead()
						assert.Empty(t, len(dead))
						if len(dead) > 0 {
							t.Log(time.Duration(dead[0].diedAt-began)%(20*time.Second), dead[0].ours.err, dead[0].watch.Cause())
						}
					})
				}
			}
		}
	}
}

func abs(x float64) float64 { return max(x, -x) }

// TestSimLostFlows has a NAT gateway forget all flows, at every phase.
func TestSimLostFlows(t *testing.T) {
	for _, detect := range []time.Duration{5 * time.Second, 10 * time.Second} {
		for _, n := range []int{1, 2, 20} {
			for _, busy := range []bool{false, true} {
				for _, owner := range []string{"derived", "slow readers", "plain", "bare"} {
					if busy && owner == "bare" {
						continue
					}
					longest, fresh, total := time.Duration(0), 0, 0
					p := simPolicy(t, PolicyConfig{DetectWithin: detect})
					for phase := time.Duration(0); phase < p.cfg.FreshFor; phase += 100 * time.Millisecond {
						s := newSim(t, uint64(phase))
						h := s.host(20 * time.Millisecond)
						for range n {
							s.open(h, p, simOwners(detect)[owner]).echo()
						}
						s.run(20*time.Second + phase)
						for _, c := range s.conns {
							c.forgotten = true
						}
						began := s.time.now
						if busy {
							s.conns[0].ours.write(1)
						}
						s.run(40 * time.Second)
						for _, c := range s.conns {
							require.Equal(t, Dead, c.watch.State())
							longest = max(longest, time.Duration(c.diedAt-began))
							total++
							if c.watch.Cause().(*SilenceError).Fresh {
								fresh++
							}
						}
						require.NoError(t, s.guard.Close())
					}
					what := fmt.Sprintf("DetectWithin %v, %d connections, busy %v, %s", detect, n, busy, owner)
					t.Logf("%s: ended after %v at most; %d of %d by a new connection's word", what, longest, fresh, total)
					assert.LessOrEqual(t, longest, p.cfg.FreshFor+3*time.Second, what)
				}
			}
		}
	}
}

// TestSimReboot: the peer doesn't know its connections any more.
func TestSimReboot(t *testing.T) {
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
	for range 20 {
		s.open(h, p, derived(detectWithin, false))
	}
	s.run(11500 * time.Millisecond)
	for _, c := range s.conns {
		c.reboot()
	}
	began := s.time.now
	s.conns[7].ours.write(1)
	s.run(100 * time.Millisecond)
	for _, c := range s.conns {
		assert.Equal(t, Dead, c.watch.State())
		assert.Less(t, time.Duration(c.diedAt-began), 50*time.Millisecond)
	}
}

// TestSimCheck asks about 10,000 connections at once, of which half are silent,
// and once more about some of them.
func TestSimCheck(t *testing.T) {
	s := newSim(t, 1)
	p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin, AskedBeforeUse: true, FreshFor: -1})
	up, downed := s.host(20*time.Millisecond), s.host(20*time.Millisecond)
	var cs []*simConn
	for i := range 10000 {
		cs = append(cs, s.open([]*simHost{up, downed}[i%2], p, bare))
	}
	s.run(2 * time.Minute)
	downed.down(s.time.now, time.Hour)
	began := s.time.now
	a := s.check1(cs...)
	b := s.check1(cs[:1000]...)
	require.True(t, s.until(5*time.Second, func() bool { return a.answered() && b.answered() }))
	t.Log(time.Duration(s.time.now-began), len(s.sent))
	for i := range cs {
		require.Equal(t, []State{Alive, Suspect}[i%2], a.states[i], i)
	}
	for i := range s.sent {
		if j := i + probesPerWindow; j < len(s.sent) {
			require.GreaterOrEqual(t, time.Duration(s.sent[j]-s.sent[i]), probeWindow)
		}
	}
}

// TestSimStops stops the loop now and then, while the kernel goes on.
func TestSimStops(t *testing.T) {
	for name := range simOwners(0) {
		s := newSim(t, 11)
		p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
		s.stall = func() (time.Duration, time.Duration) {
			return time.Duration(s.rand.Float64() * float64(20*time.Second)), time.Duration((0.1 + s.rand.Float64()*s.rand.Float64()*9.9) * float64(time.Second))
		}
		s.pause = func() {
			if s.rand.IntN(500) == 0 {
				s.time.advance(s.time.now + s.rand.Int64N(int64(time.Second)))
			}
		}
		for i := range 50 {
			h := s.host(20 * time.Millisecond)
			s.open(h, p, simOwners(detectWithin)[name])
			if i%10 != 0 {
				s.open(h, p, simOwners(detectWithin)[name])
			}
		}
		s.run(simLength(5 * time.Minute))
		s.traffic(10 * time.Second)
		s.run(simLength(5 * time.Minute))
		dead := s.dead()
		t.Log(name, "suspicions", s.suspicions(), "ended", len(dead))
		if len(dead) > 0 {
			t.Log(dead[0].ours.err, dead[0].watch.Cause())
		}
		assert.Empty(t, len(dead), name)
		s.stall, s.pause = nil, nil
		assert.True(t, s.until(time.Minute, s.idle))
		assert.Empty(t, len(s.unrestored()), name)
	}
}
