package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// TestSimTheLoopEndsOnlyWhenNothingLives: whenever a connection comes while the
// loop is about to end, for want of others, it is watched.
func TestSimTheLoopEndsOnlyWhenNothingLives(t *testing.T) {
	t.Parallel()
	p := simPolicy(t, PolicyConfig{DetectWithin: 2 * time.Second})
	for _, stop := range []bool{false, true} {
		for after := time.Duration(0); after < 1500*time.Millisecond; after += 7 * time.Millisecond {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			gone := s.open(h, p, bare)
			if stop {
				gone.watch.Stop()
			}
			gone.close()
			s.run(after)
			c := s.open(h, p, bare)
			s.run(1500 * time.Millisecond)
			require.False(t, s.asleep, after)
			asked := s.check1(c)
			require.True(t, s.until(time.Second, asked.answered), after)
			require.Equal(t, Alive, asked.states[0], after)
			h.down(s.time.now, time.Hour)
			s.run(4 * time.Second)
			require.Equal(t, Dead, c.watch.State(), after)
			c.close()
			s.run(3 * time.Second)
			require.True(t, s.asleep, "nothing lives")
			require.NoError(t, s.guard.Close())
		}
	}
}

// TestSimLettingGoInAnOutageEndsNobody: what the Guard has asked in vain isn't
// held against a connection whose own options would let it live.
func TestSimLettingGoInAnOutageEndsNobody(t *testing.T) {
	t.Parallel()
	own := simOptions(3*time.Second, 10*time.Second, 5, 0) // 53 s
	for _, how := range []string{"Close", "Stop"} {
		for phase := time.Duration(0); phase < 40*time.Second; phase += 310 * time.Millisecond {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: time.Minute, FreshFor: 2 * time.Second}), own)
			s.run(5 * time.Second)
			h.down(s.time.now, phase+300*time.Millisecond)
			s.run(phase)
			s.letGo(c, how)
			s.run(2 * time.Minute)
			what := fmt.Sprint(how, " after ", phase)
			require.NotEqual(t, sockopt.StateClose, c.ours.state, what)
			require.Equal(t, own.KeepAlive, c.ours.opts.KeepAlive, what)
			require.Equal(t, c.openedRTO, c.ours.rtoMax, what)
			require.NoError(t, s.guard.Close())
		}
	}
}

// letGo ends the watching of c.
func (s *sim) letGo(c *simConn, how string) {
	if how == "Stop" {
		c.watch.Stop()
		return
	}
	require.NoError(s.t, s.guard.Close())
	_, ok := s.loop.turn()
	require.False(s.t, ok)
	s.loop.putBack() // as run does
	s.loop, s.wake = nil, never
}

// TestSimCloseInAnOutagePutsEverythingBack: of idle and of busy suspects.
func TestSimCloseInAnOutagePutsEverythingBack(t *testing.T) {
	t.Parallel()
	// After 4 s what was asked in vain has used up some owners' own count.
	for _, owner := range []string{"derived", "plain", "bare"} {
		for phase := time.Duration(0); phase < 4*time.Second; phase += 50 * time.Millisecond {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			p := simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second})
			idle, busy := s.open(h, p, simOwners(10 * time.Second)[owner]), s.open(h, p, simOwners(10 * time.Second)[owner])
			s.run(10 * time.Second)
			h.down(s.time.now, 6*time.Second)
			busy.ours.write(1)
			s.check1(idle)
			s.run(phase)
			s.letGo(nil, "Close")
			require.Empty(t, s.unrestored(), fmt.Sprint(owner, phase))
		}
	}
}

// TestSimStopInACallbackPutsEverythingBack: it comes in the middle of a step,
// after the shield and the hurry.
func TestSimStopInACallbackPutsEverythingBack(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"derived", "plain", "bare"} {
		for _, busy := range []bool{false, true} {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), simOwners(detectWithin)[owner])
			stopped := false
			c.watch.told = func(w *Watch) {
				if w.State() == Suspect {
					stopped = true
					w.Stop()
				}
			}
			s.run(10 * time.Second)
			h.down(s.time.now, 2*time.Second)
			if busy {
				c.ours.write(1)
			} else {
				s.check1(c)
			}
			what := fmt.Sprint(owner, " busy ", busy)
			require.True(t, s.until(3*time.Second, func() bool { return stopped }), what)
			s.run(10 * time.Second)
			require.Empty(t, s.dead(), what)
			require.Empty(t, s.unrestored(), what)
			require.True(t, s.idle(), what)
		}
	}
}

// TestSimASecondWatchIsNoEvidence: that a connection is watched once more in an
// outage doesn't mean that a new one works.
func TestSimASecondWatchIsNoEvidence(t *testing.T) {
	t.Parallel()
	for _, whose := range []string{"the suspect's", "a sibling's"} {
		s := newSim(t, 1)
		h := s.host(time.Millisecond)
		p := simPolicy(t, PolicyConfig{DetectWithin: time.Minute, FreshFor: time.Second})
		suspect, sibling := s.open(h, p, bare), s.open(h, p, bare)
		s.run(2 * time.Second)
		h.down(s.time.now, 30*time.Second)
		require.True(t, s.until(5*time.Second, func() bool { return suspect.watch.State() == Suspect }))
		for range 20 {
			if whose == "a sibling's" {
				s.watchConn(sibling, p, time.Millisecond)
			} else {
				s.watchConn(suspect, p, time.Millisecond)
			}
			s.run(time.Second)
		}
		require.Empty(t, s.dead(), whose)
		s.run(30 * time.Second)
		require.Empty(t, s.dead(), whose)
		require.True(t, s.until(5*time.Second, func() bool { return s.idle() && len(s.unrestored()) == 0 }), whose)
	}
}

// TestSimATrialFollowsThePoliciesInForce: also those that change in its course.
func TestSimATrialFollowsThePoliciesInForce(t *testing.T) {
	t.Parallel()
	mild := simPolicy(t, PolicyConfig{DetectWithin: 20 * time.Second})
	strict := simPolicy(t, PolicyConfig{DetectWithin: 4 * time.Second, FreshFor: time.Second})
	suspected := func(s *sim, c *simConn) {
		h := c.host
		s.run(5 * time.Second)
		h.down(s.time.now, 40*time.Second)
		s.time.after(1100*time.Millisecond, func() { s.check1(c) })
		require.True(t, s.until(3*time.Second, func() bool { return c.watch.State() == Suspect }))
	}
	t.Run("the strict one is stopped", func(t *testing.T) {
		s := newSim(t, 1)
		c := s.open(s.host(time.Millisecond), mild, bare)
		s.watchConn(c, strict, time.Millisecond)
		began := s.time.now + int64(5*time.Second)
		suspected(s, c)
		s.kept[0].Stop()
		s.run(40 * time.Second)
		assert.Greater(t, time.Duration(c.diedAt-began), 18*time.Second)
		assert.Less(t, time.Duration(c.diedAt-began), 21*time.Second)
	})
	t.Run("a strict one joins", func(t *testing.T) {
		s := newSim(t, 1)
		c := s.open(s.host(time.Millisecond), mild, bare)
		began := s.time.now + int64(5*time.Second)
		suspected(s, c)
		s.watchConn(c, strict, time.Millisecond)
		assert.Equal(t, Suspect, s.kept[0].State(), "it is one already")
		s.run(40 * time.Second)
		assert.Positive(t, c.diedAt)
		assert.Less(t, time.Duration(c.diedAt-began), 6*time.Second)
	})
	t.Run("events only remain", func(t *testing.T) {
		s := newSim(t, 1)
		c := s.open(s.host(time.Millisecond), strict, plain)
		s.watchConn(c, nil, time.Millisecond)
		suspected(s, c)
		c.watch.Stop()
		s.run(30 * time.Second)
		assert.Empty(t, s.dead())
		assert.Empty(t, s.unrestored())
		assert.True(t, s.idle())
	})
}

// TestSimAWriteJustBeforeWatchSurvivesABlip: however long nothing was heard that
// nobody had asked for.
func TestSimAWriteJustBeforeWatchSurvivesABlip(t *testing.T) {
	t.Parallel()
	for _, idle := range []time.Duration{12 * time.Second, time.Hour} {
		for before := time.Duration(0); before < time.Second; before += 100 * time.Millisecond {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			c := s.open(h, nil, bare)
			s.run(idle)
			h.down(s.time.now, time.Second)
			c.ours.write(1)
			s.run(before)
			s.watchConn(c, simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second}), time.Millisecond)
			s.run(time.Minute)
			require.Empty(t, s.dead(), fmt.Sprint(idle, before))
			require.Empty(t, s.unrestored(), fmt.Sprint(idle, before))
		}
	}
}

// TestSimTheEndOfAnOutageClearsMany: at once, as far as probes may be sent.
func TestSimTheEndOfAnOutageClearsMany(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(20 * time.Millisecond)
	p := simPolicy(t, PolicyConfig{DetectWithin: 30 * time.Second, FreshFor: 2 * time.Second})
	for range 2000 {
		s.open(h, p, bare)
	}
	s.run(time.Second)
	h.down(s.time.now, 10*time.Second)
	s.run(10 * time.Second)
	for _, c := range s.conns {
		require.Equal(t, Suspect, c.watch.State())
	}
	healed := s.time.now
	alive := func() bool {
		for _, c := range s.conns {
			if c.watch.State() != Alive {
				return false
			}
		}
		return true
	}
	require.True(t, s.until(5*time.Second, alive))
	assert.Less(t, time.Duration(s.time.now-healed), 2500*time.Millisecond)
	t.Log(time.Duration(s.time.now - healed))
	asked := s.check1(s.conns...)
	require.True(t, s.until(time.Second, asked.answered))
	for _, state := range asked.states {
		require.Equal(t, Alive, state)
	}
	require.True(t, s.until(10*time.Second, s.idle))
	require.Empty(t, len(s.unrestored()))
}

// TestSimOptionsSetInTheMiddleOfAQuestionStay: the owner's, between the question
// and the shield, and after it.
func TestSimOptionsSetInTheMiddleOfAQuestionStay(t *testing.T) {
	t.Parallel()
	for _, was := range []string{"plain", "bare", "derived"} {
		for phase := time.Duration(0); phase < 1500*time.Millisecond; phase += 10 * time.Millisecond {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: 20 * time.Second, FreshFor: -1}), simOwners(20 * time.Second)[was])
			s.run(2 * time.Second)
			h.down(s.time.now, 2*time.Second)
			s.check1(c)
			s.run(phase)
			c.opened = simOptions(7*time.Second, 3*time.Second, 5, 33*time.Second)
			c.ours.opts = c.opened
			c.ours.setKeepAlive(true)
			c.ours.setIdle(c.opened.KeepAlive.Idle)
			s.run(8 * time.Second)
			require.Empty(t, s.dead(), fmt.Sprint(was, phase))
			require.True(t, s.until(10*time.Second, s.idle))
			require.Equal(t, c.opened, c.ours.opts, fmt.Sprint(was, phase))
		}
	}
}

// TestSimFreshForBoundsALostFlow: however large DetectWithin is.
func TestSimFreshForBoundsALostFlow(t *testing.T) {
	t.Parallel()
	p := simPolicy(t, PolicyConfig{DetectWithin: 2 * time.Minute, FreshFor: 2500 * time.Millisecond})
	longest := time.Duration(0)
	for phase := time.Duration(0); phase < 5*time.Second; phase += 70 * time.Millisecond {
		s := newSim(t, uint64(phase))
		c := s.open(s.host(20*time.Millisecond), p, bare)
		s.run(10*time.Second + phase)
		c.forgotten = true
		began := s.time.now
		s.run(20 * time.Second)
		require.Equal(t, Dead, c.watch.State(), phase)
		longest = max(longest, time.Duration(c.diedAt-began))
		require.NoError(t, s.guard.Close())
	}
	t.Log("severed at the latest after", longest)
	assert.LessOrEqual(t, longest, p.cfg.FreshFor+3*time.Second)
}
