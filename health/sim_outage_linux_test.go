package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// simPhases opens connections at every phase of their keep-alive, and returns
// when all have been alive for a while.
func (s *sim) simPhases(p *Policy, opts sockopt.Timers, cycle time.Duration, together bool) {
	const step = 50 * time.Millisecond
	h := s.host(time.Millisecond)
	for range int(cycle / step) {
		if !together {
			h = s.host(time.Millisecond)
		}
		s.open(h, p, opts)
		s.run(step)
	}
	s.run(3 * cycle)
}

// outage ends every path for d, and returns how many connections that ended.
func simOutage(t *testing.T, detect, d time.Duration, opts sockopt.Timers, cycle time.Duration, together bool, check func(s *sim)) int {
	s := newSim(t, 1)
	s.simPhases(simPolicy(t, PolicyConfig{DetectWithin: detect}), opts, cycle, together)
	require.Empty(t, s.dead())
	for _, h := range s.hosts {
		h.down(s.time.now, d)
	}
	if check != nil {
		check(s)
	}
	s.run(d + detect + 10*time.Second)
	require.True(t, s.until(10*time.Second, s.idle), "trials end")
	require.Empty(t, s.unrestored())
	defer func() { require.NoError(t, s.guard.Close()) }()
	return len(s.dead())
}

func TestSimOutages(t *testing.T) {
	for _, owner := range []string{"derived", "plain"} {
		for _, detect := range []time.Duration{2, 3, 4, 5, 10, 30} {
			detect *= time.Second
			for _, together := range []bool{false, true} {
				opts := simOwners(detect)[owner]
				cycle := min(opts.KeepAlive.Idle, detect)
				idle := opts.KeepAlive.Idle
				longest := time.Duration(-1)
				step := detect / 10
				if *simLong > 1 {
					step = 50 * time.Millisecond
				}
				for d := time.Duration(0); d <= detect+time.Second; d += step {
					n := simOutage(t, detect, d, opts, cycle, together, nil)
					if n > 0 {
						break
					}
					longest = d
				}
				t.Logf("%-12s together %-5v DetectWithin %v: idle %v, longest outage survived %v", owner, together, detect, idle, longest)
				if owner == "derived" || owner == "slow readers" {
					assert.GreaterOrEqual(t, longest, detect-idle, fmt.Sprint(owner, detect, together))
				}
			}
		}
	}
}

func TestSimTheEndComesInTime(t *testing.T) {
	for name := range simOwners(0) {
		for _, detect := range []time.Duration{2, 3, 4, 5, 10, 30} {
			detect *= time.Second
			for _, together := range []bool{false, true} {
				opts := simOwners(detect)[name]
				var all *sim
				var heard []int64
				began := int64(0)
				simOutage(t, detect, time.Hour, opts, min(opts.KeepAlive.Idle, detect), together, func(s *sim) {
					all, began = s, s.time.now
					for _, c := range s.conns {
						heard = append(heard, s.time.now-int64(c.ours.silent()))
					}
					s.run(5*detect + 40*time.Second)
				})
				least, most, alive := time.Hour, time.Duration(0), 0
				for i, c := range all.conns {
					if c.ours.state != sockopt.StateClose {
						alive++
						continue
					}
					least = min(least, time.Duration(c.diedAt-heard[i]))
					most = max(most, time.Duration(c.diedAt-began))
				}
				t.Logf("%-12s together %-5v DetectWithin %v: ended %v at least after the peer was heard, %v at most after the outage began", name, together, detect, least, most)
				assert.Zero(t, alive)
				assert.GreaterOrEqual(t, least, detect-tick)
				assert.LessOrEqual(t, most, detect+time.Second)
			}
		}
	}
}
