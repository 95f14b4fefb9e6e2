package health

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

func simPolicy(t testing.TB, cfg PolicyConfig) *Policy {
	t.Helper()
	p, err := NewPolicy(cfg)
	require.NoError(t, err)
	return p
}

var simLong = flag.Int("sim.long", 1, "how many times as long simulations of random faults take")

func simLength(d time.Duration) time.Duration { return time.Duration(*simLong) * d }

// simOwners are the options that a connection's owner may have set.
func simOwners(detect time.Duration) map[string]sockopt.Timers {
	return map[string]sockopt.Timers{
		"derived":      derived(detect, false),
		"slow readers": derived(detect, true),
		"plain":        plain,
		"bare":         bare,
		"one probe":    simOptions(15*time.Second, 5*time.Second, 1, 0),
		"rare":         simOptions(4*time.Second, 30*time.Second, 2, 30*time.Second),
	}
}

// TestSimLostProbes loses any two of a connection's segments.
func TestSimLostProbes(t *testing.T) {
	for name, opts := range simOwners(detectWithin) {
		t.Run(name, func(t *testing.T) {
			const segments = 14
			for first := range segments {
				for second := first; second < segments; second++ {
					for _, alone := range []bool{true, false} {
						s := newSim(t, 1)
						h := s.host(20 * time.Millisecond)
						p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
						c := s.open(h, p, opts)
						if !alone {
							s.open(h, p, opts)
						}
						lose := map[int]bool{first: true, second: true}
						n := 0
						for _, e := range []*simTCP{&c.ours, &c.peers} {
							send := e.send
							e.send = func(g segment) {
								if n++; !lose[n-1] {
									send(g)
								}
							}
						}
						s.run(150 * time.Second)
						what := fmt.Sprintf("segments %d and %d lost, alone %v", first, second, alone)
						require.Empty(t, s.dead(), what)
						require.True(t, s.until(10*time.Second, s.idle), what)
						require.Empty(t, s.unrestored(), what)
						for _, state := range c.told {
							require.NotEqual(t, Dead, state)
						}
						require.NoError(t, s.guard.Close())
					}
				}
			}
		})
	}
}

// traffic has every connection make a request now and then.
func (s *sim) traffic(every time.Duration) {
	for _, c := range s.conns {
		c.echo()
		var next func()
		next = func() {
			if c.ours.state == sockopt.StateClose {
				return
			}
			c.ours.write(1 + s.rand.IntN(3))
			s.time.after(time.Duration(s.rand.Float64()*2*float64(every)), next)
		}
		s.time.after(time.Duration(s.rand.Float64()*2*float64(every)), next)
	}
}

func (s *sim) suspicions() (n int) {
	for _, c := range s.conns {
		for _, state := range c.told {
			if state == Suspect {
				n++
			}
		}
	}
	return n
}

func TestSimRandomLoss(t *testing.T) {
	// How many are ended in an hour of connections, at most.
	rare := map[float64]float64{0.02: 0, 0.05: 0.01, 0.1: 1}
	for _, loss := range slices.Sorted(maps.Keys(rare)) {
		for _, addresses := range []int{1, 200} {
			for _, every := range []time.Duration{0, 5 * time.Second} {
				t.Run(fmt.Sprint(loss, " to ", addresses, " every ", every), func(t *testing.T) {
					s := newSim(t, 7)
					p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
					for i := range addresses {
						h := s.host(20 * time.Millisecond)
						h.loss = [2]float64{loss, loss}
						for range 200 / addresses {
							s.open(h, p, derived(detectWithin, i%4 == 0))
						}
					}
					if every > 0 {
						s.traffic(every)
					}
					length := simLength(6 * time.Minute)
					s.run(length)
					dead := s.dead()
					t.Logf("%.0f connection hours, %d suspicions, %d canaries, %d probes asked for, %d ended", length.Hours()*200, s.suspicions(), s.canaries, s.asks, len(dead))
					for i, c := range dead {
						if i < 10 {
							t.Log(time.Duration(c.diedAt), c.ours.err, c.watch.Cause())
						}
					}
					assert.LessOrEqual(t, len(dead), int(length.Hours()*200*rare[loss]))
				})
			}
		}
	}
}
