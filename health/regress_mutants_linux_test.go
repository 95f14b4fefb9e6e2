package health

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// TestSimWhoIsHeardInTheLastMomentLives: between the look and the end.
func TestSimWhoIsHeardInTheLastMomentLives(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), bare)
	s.run(2 * time.Second)
	h.down(s.time.now, time.Hour)
	c.ours.write(1)
	spoken := false
	s.pause = func() {
		tr := s.loop.byID[c.watch.id]
		if tr == nil || spoken || s.time.now < tr.deadline() {
			return
		}
		spoken = true
		h.outage = [2][]span{}
		c.peers.write(1)
		s.time.advance(s.time.now + int64(tick/2)) // more would show in the look
	}
	s.run(20 * time.Second)
	require.True(t, spoken)
	require.Empty(t, s.dead())
	require.Empty(t, s.unrestored())
}

// TestSimTheOwnersRTOMaxStays: whatever it is, and whenever it was set.
func TestSimTheOwnersRTOMaxStays(t *testing.T) {
	t.Parallel()
	for _, own := range []time.Duration{30 * time.Second, 2 * time.Second} {
		for _, late := range []bool{false, true} {
			s := newSim(t, 1)
			h := s.host(time.Millisecond)
			c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second}), bare)
			s.run(2 * time.Second)
			h.down(s.time.now, 4*time.Second)
			c.ours.write(1)
			if late {
				require.True(t, s.until(3*time.Second, func() bool { return c.ours.rtoMax == time.Second }), "hurried")
			}
			c.ours.rtoMax, c.openedRTO = own, own
			s.until(4*time.Second, func() bool { require.Equal(t, own, c.ours.rtoMax); return false })
			require.True(t, s.until(20*time.Second, s.idle))
			require.Empty(t, s.dead())
			require.Empty(t, s.unrestored())
		}
	}
}

// TestSimALongPathIsNotHurried: an RTO max below the round trip would repeat
// everything.
func TestSimALongPathIsNotHurried(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(800 * time.Millisecond)
	c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second}), bare)
	s.run(2 * time.Second)
	h.down(s.time.now, 6*time.Second)
	c.ours.write(1)
	suspect := s.until(6*time.Second, func() bool {
		require.Equal(t, c.openedRTO, c.ours.rtoMax)
		return c.watch.unanswered.Load() > 0
	})
	require.True(t, suspect)
	s.until(2*time.Second, func() bool { require.Equal(t, c.openedRTO, c.ours.rtoMax); return false })
}

// TestSimProbesAreSpreadOverTime: kernels lose answers that come all at once.
func TestSimProbesAreSpreadOverTime(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	p := simPolicy(t, PolicyConfig{FreshFor: -1})
	for range 1000 {
		s.open(h, p, bare)
	}
	s.run(time.Minute)
	s.check1(s.conns...)
	s.run(time.Second)
	require.Len(t, s.sent, 1000)
	for i := range s.sent[:750] {
		require.GreaterOrEqual(t, time.Duration(s.sent[i+250]-s.sent[i]), 4*time.Millisecond)
	}
}

// TestSimAQuestionThatTheKernelHoldsBackIsPutLater: keep-alive asks nobody who
// was heard within a second.
func TestSimAQuestionThatTheKernelHoldsBackIsPutLater(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	c := s.open(s.host(time.Millisecond), simPolicy(t, PolicyConfig{FreshFor: -1}), bare)
	s.run(400 * time.Millisecond)
	it, ok := s.guard.itemOf(c.watch.id)
	require.True(t, ok)
	c.ours.info(&s.loop.info)
	tr := s.loop.begin(&it, s.time.now)
	s.loop.put(tr, c.watch, s.time.now)
	assert.InDelta(t, time.Second, time.Duration(tr.asked), float64(tick))
	s.run(5 * time.Second)
	assert.Empty(t, c.told)
	assert.Empty(t, s.unrestored())
}

// TestSimAWindowProbeTooSoonIsNoQuestion: the peer doesn't answer the second one.
func TestSimAWindowProbeTooSoonIsNoQuestion(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 0, repeated(&sockopt.Info{NotSent: 1, Probes: 1}))
	assert.Equal(t, 1, repeated(&sockopt.Info{NotSent: 1, Probes: 2}))
}

// TestSimWindowProbesLostAreNotEnough: up to four of them, which are minutes
// apart, end nobody.
func TestSimWindowProbesLostAreNotEnough(t *testing.T) {
	t.Parallel()
	for lose := 1; lose <= 4; lose++ {
		s := newSim(t, 1)
		c := s.open(s.host(time.Millisecond), simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), plain)
		c.peers.deaf = true
		c.ours.write(3 * simWindow)
		s.run(20 * time.Minute)
		lost, send := 0, c.ours.send
		c.ours.send = func(g segment) {
			if g.probe && lost < lose {
				lost++
				return
			}
			send(g)
		}
		s.run(time.Hour)
		require.Equal(t, lose, lost)
		require.Empty(t, s.dead(), fmt.Sprint(lose))
	}
}

// TestSimWhoWasHeardSinceIsNotAsked: for the sake of a sibling's silence.
func TestSimWhoWasHeardSinceIsNotAsked(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	p := simPolicy(t, PolicyConfig{DetectWithin: detectWithin})
	lost := s.open(h, p, bare)
	for range 50 {
		c := s.open(h, p, bare)
		var talk func()
		talk = func() { c.peers.write(1); s.time.after(300*time.Millisecond, talk) }
		talk()
	}
	s.run(time.Second)
	lost.forgotten = true
	require.True(t, s.until(20*time.Second, func() bool {
		require.LessOrEqual(t, len(s.loop.byID), 1)
		return lost.watch.Dead()
	}))
}

// TestSimManySuspectsAskTheirSiblingsOnce: not each for itself.
func TestSimManySuspectsAskTheirSiblingsOnce(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	p := simPolicy(t, PolicyConfig{DetectWithin: time.Minute})
	for range 400 {
		c := s.open(h, p, bare)
		var talk func()
		talk = func() { c.peers.write(1); s.time.after(300*time.Millisecond, talk) }
		talk()
	}
	s.run(time.Second)
	looks := 0
	s.pause = func() { looks++ }
	g := s.guard.groupOf(s.conns[0].watch.id)
	s.guard.post(func(in *inbox) {
		for range 100 {
			in.doubts = append(in.doubts, doubt{g, true})
		}
	})
	s.run(100 * time.Millisecond)
	assert.Less(t, looks, 4*len(s.conns))

	for _, c := range s.conns[:100] {
		c.forgotten = true
	}
	looks = 0
	s.check1(s.conns...)
	s.run(1500 * time.Millisecond)
	s.check1(s.conns[:100]...)
	s.run(3 * time.Second)
	t.Log(looks)
	assert.Less(t, looks, 100*len(s.conns))
}

// TestSimWhatWasJustRepeatedHasTime: the last retransmission may be answered.
func TestSimWhatWasJustRepeatedHasTime(t *testing.T) {
	t.Parallel()
	for phase := time.Duration(0); phase < time.Second; phase += 20 * time.Millisecond {
		s := newSim(t, 1)
		h := s.host(180 * time.Millisecond)
		c := s.open(h, simPolicy(t, PolicyConfig{DetectWithin: 10 * time.Second}), bare)
		c.echo()
		for range 30 {
			c.ours.write(1)
			s.run(300 * time.Millisecond)
		}
		s.run(phase)
		c.forgotten = true
		before, send := c.ours.total, c.ours.send
		c.ours.send = func(g segment) {
			if c.ours.total-before >= 5 {
				c.forgotten = false
			}
			send(g)
		}
		c.ours.write(1)
		s.run(20 * time.Second)
		require.False(t, c.forgotten)
		require.Empty(t, s.dead(), phase)
	}
}
