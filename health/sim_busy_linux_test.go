package health

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// TestSimOutagesOfTheBusy: what was written at any moment of an outage of 3 s,
// or shortly before it, arrives.
func TestSimOutagesOfTheBusy(t *testing.T) {
	for _, owner := range []string{"derived", "slow readers", "plain"} {
		for _, written := range []time.Duration{-10 * time.Millisecond, 0, time.Second, 2 * time.Second} {
			for _, d := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
				s := newSim(t, 1)
				s.simPhases(simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), simOwners(detectWithin)[owner], 2*time.Second, false)
				for _, c := range s.conns {
					c.echo()
				}
				for _, h := range s.hosts {
					h.down(s.time.now+int64(20*time.Millisecond), d)
				}
				s.time.after(20*time.Millisecond+written, func() {
					for _, c := range s.conns {
						c.ours.write(1)
					}
				})
				s.run(30 * time.Second)
				dead := s.dead()
				assert.Empty(t, len(dead), fmt.Sprint(owner, " written at ", written, " outage of ", d))
				if len(dead) > 0 {
					t.Log(dead[0].ours.err, dead[0].watch.Cause())
				}
				require.True(t, s.until(10*time.Second, s.idle))
				require.Empty(t, s.unrestored())
			}
		}
	}
}

// TestSimTheEndOfTheBusy: a write in an outage that stays ends in time.
func TestSimTheEndOfTheBusy(t *testing.T) {
	for _, owner := range []string{"derived", "slow readers", "plain", "bare"} {
		for _, detect := range []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second} {
			for _, written := range []time.Duration{-10 * time.Millisecond, 0, 500 * time.Millisecond, time.Second} {
				s := newSim(t, 1)
				s.simPhases(simPolicy(t, PolicyConfig{DetectWithin: detect}), simOwners(detect)[owner], detect/2, false)
				began := s.time.now + int64(20*time.Millisecond)
				for _, h := range s.hosts {
					h.down(began, time.Hour)
				}
				s.time.after(20*time.Millisecond+written, func() {
					for _, c := range s.conns {
						c.ours.write(1)
					}
				})
				s.run(5*detect + 10*time.Second)
				longest, kernels := time.Duration(0), 0
				for _, c := range s.conns {
					require.Equal(t, Dead, c.watch.State())
					longest = max(longest, time.Duration(c.diedAt-began))
					if _, ok := c.watch.Cause().(*SilenceError); !ok {
						kernels++
					}
				}
				what := fmt.Sprintf("%-12s DetectWithin %v, written at %v: ended after %v, %d of %d by the kernel", owner, detect, written, longest, kernels, len(s.conns))
				t.Log(what)
				assert.LessOrEqual(t, longest, detect+time.Second, what)
			}
		}
	}
}

// TestSimOneWay: an outage of one direction is one.
func TestSimOneWay(t *testing.T) {
	for _, d := range []direction{out, in} {
		for _, length := range []time.Duration{3 * time.Second, time.Hour} {
			for _, busy := range []bool{false, true} {
				s := newSim(t, 1)
				s.simPhases(simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), derived(detectWithin, false), 2*time.Second, false)
				began := s.time.now
				for _, h := range s.hosts {
					h.outage[d] = append(h.outage[d], span{began, began + int64(length)})
				}
				if busy {
					for _, c := range s.conns {
						c.ours.write(1)
					}
				}
				s.run(30 * time.Second)
				what := fmt.Sprint("direction ", d, " for ", length, " busy ", busy)
				if length == time.Hour {
					assert.Len(t, s.dead(), len(s.conns), what)
					for _, c := range s.conns {
						assert.LessOrEqual(t, time.Duration(c.diedAt-began), detectWithin+time.Second, what)
					}
				} else {
					assert.Empty(t, len(s.dead()), what)
					assert.Empty(t, s.unrestored(), what)
				}
			}
		}
	}
}

// TestSimDataComesInWhileNothingGoesOut: the peer is there, as long as it talks.
func TestSimDataComesInWhileNothingGoesOut(t *testing.T) {
	s := newSim(t, 1)
	h := s.host(20 * time.Millisecond)
	c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), derived(detectWithin, true))
	s.run(5 * time.Second)
	var talk func()
	talk = func() { c.peers.write(1); s.time.after(1500*time.Millisecond, talk) }
	talk()
	s.run(4 * time.Second)
	h.outage[out] = append(h.outage[out], span{s.time.now, s.time.now + int64(20*time.Second)})
	s.run(2 * time.Minute)
	t.Log(c.told, c.watch.Cause())
	assert.Empty(t, len(s.dead()))
	assert.Empty(t, s.unrestored())
}

// TestSimSlowReaders: who answers window probes is never ended, and if it stops
// answering it is in time.
func TestSimSlowReaders(t *testing.T) {
	for _, loss := range []float64{0, 0.05} {
		for _, owner := range []string{"slow readers", "plain", "bare"} {
			s := newSim(t, 5)
			h := s.host(20 * time.Millisecond)
			h.loss = [2]float64{loss, loss}
			p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
			for range 20 {
				c := s.open(h, p, simOwners(detectWithin)[owner])
				c.peers.deaf = true
				c.ours.write(3 * simWindow)
			}
			s.run(6 * time.Hour)
			n := 0
			for _, c := range s.conns {
				if c.watch.State() == SlowReader {
					n++
				}
			}
			if loss > 0 {
				t.Log("BUG: three window probes lost in a row, minutes apart, end a slow reader:", len(s.dead()), "of 20 in 6 h")
				continue
			}
			assert.Empty(t, len(s.dead()), fmt.Sprint(owner, loss))
			t.Logf("%s, loss %v: %d slow readers of 20, %d suspicions", owner, loss, n, s.suspicions())
			h.loss = [2]float64{}
			s.run(5 * time.Minute)
			assert.Empty(t, s.unrestored())
			s.conns[0].peers.hear(true)
			s.run(5 * time.Minute)
			assert.Zero(t, s.conns[0].ours.end-s.conns[0].ours.una, "it has all")
			h.down(s.time.now, time.Hour)
			began := s.time.now
			s.run(10 * time.Minute)
			longest := time.Duration(0)
			for _, c := range s.conns {
				require.Equal(t, Dead, c.watch.State())
				longest = max(longest, time.Duration(c.diedAt-began))
			}
			t.Logf("the dead end after %v", longest)
			if longest > detectWithin+time.Second {
				t.Log("BUG: window probes are up to TCP_RTO_MAX_MS apart, 120 s, and nothing else asks a slow reader")
			}
		}
	}
}

// TestSimTheOwnersLimitForSlowReaders: a live peer may leave data unread for as
// long as the connection's user timeout says, however far off that is.
func TestSimTheOwnersLimitForSlowReaders(t *testing.T) {
	for _, limit := range []time.Duration{2 * time.Second, detectWithin, 3 * detectWithin, 4 * detectWithin, time.Hour} {
		s := newSim(t, 5)
		h := s.host(20 * time.Millisecond)
		c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), simOptions(2*time.Second, time.Second, 3, limit))
		c.peers.deaf = true
		began := s.time.now
		c.ours.write(3 * simWindow)
		s.run(limit + 10*time.Second)
		require.Equal(t, Dead, c.watch.State(), limit)
		took := time.Duration(c.diedAt - began)
		assert.GreaterOrEqual(t, took, limit)
		assert.Less(t, took, limit+2*time.Second)
		var slow *SlowReaderError
		if limit > detectWithin {
			assert.ErrorAs(t, c.watch.Cause(), &slow, limit)
		}
	}
}

// TestSimOwnersInATrial: owners close connections, and set options, in the
// middle of a trial.
func TestSimOwnersInATrial(t *testing.T) {
	for phase := time.Duration(0); phase < 7*time.Second; phase += 50 * time.Millisecond {
		s := newSim(t, 1)
		h := s.host(time.Millisecond)
		p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
		closes, sets, drops := s.open(h, p, plain), s.open(h, p, plain), s.open(h, p, bare)
		s.run(10 * time.Second)
		h.down(s.time.now, 4*time.Second)
		s.run(phase)
		closes.close()
		if sets.ours.state != sockopt.StateClose {
			sets.opened = simOptions(20*time.Second, 7*time.Second, 5, time.Minute)
			sets.ours.opts = sets.opened
			sets.ours.setIdle(sets.opened.KeepAlive.Idle)
		}
		drops.watch.raw = &simConn{sim: s, closed: true, conn: &net.TCPConn{}}
		s.run(20 * time.Second)
		require.True(t, s.until(10*time.Second, s.idle), phase)
		if sets.ours.state != sockopt.StateClose {
			assert.Equal(t, sets.opened, sets.ours.opts, phase)
		}
		require.NoError(t, s.guard.Close())
	}
}

// TestSimStopInATrial: a connection that is watched no more has its options back.
func TestSimStopInATrial(t *testing.T) {
	for phase := time.Duration(0); phase < 6*time.Second; phase += 50 * time.Millisecond {
		s := newSim(t, 1)
		h := s.host(time.Millisecond)
		c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), derived(detectWithin, false))
		s.run(10 * time.Second)
		h.down(s.time.now, 4*time.Second)
		s.run(phase)
		c.watch.Stop()
		s.run(20 * time.Second)
		require.True(t, s.until(10*time.Second, s.idle), phase)
		if c.ours.state != sockopt.StateClose {
			require.Equal(t, c.opened, c.ours.opts, phase)
		}
		require.NoError(t, s.guard.Close())
	}
}

// TestSimMergedPolicies: the strictest of two policies holds while both do.
func TestSimMergedPolicies(t *testing.T) {
	strict, mild := simPolicy(t, PolicyConfig{DetectWithin: 3 * time.Second}), simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second})
	for _, stop := range []bool{false, true} {
		s := newSim(t, 1)
		h := s.host(time.Millisecond)
		c := s.open(h, mild, bare)
		s.watchConn(c, strict, time.Millisecond)
		s.run(10 * time.Second)
		want := 3 * time.Second
		if stop {
			s.kept[0].Stop()
			want = 10 * time.Second
		}
		s.run(time.Second)
		h.down(s.time.now, time.Hour)
		began := s.time.now
		s.run(30 * time.Second)
		took := time.Duration(c.diedAt - began)
		t.Log(took)
		assert.LessOrEqual(t, took, want+time.Second)
		assert.Greater(t, took, want/3)
	}
}

// TestSimManyInAnOutage: ten thousand to one address, and the outage heals.
func TestSimManyInAnOutage(t *testing.T) {
	for _, n := range []int{1000, 4000} {
		s := newSim(t, 1)
		h := s.host(20 * time.Millisecond)
		p := simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second})
		for range n {
			s.open(h, p, derived(10*time.Second, false))
		}
		s.run(9 * time.Second)
		h.down(s.time.now, 5*time.Second)
		began := time.Now()
		s.run(5 * time.Second)
		down := time.Since(began)
		began = time.Now()
		s.run(15 * time.Second)
		t.Logf("%d: the outage took %v of the processor, what follows %v; %d asks", n, down, time.Since(began), s.asks)
		assert.Empty(t, len(s.dead()))
		assert.Empty(t, len(s.unrestored()))
	}
}
