package health

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// spiedKernel is a simKernel that tells what is asked of it before it is done.
type spiedKernel struct {
	simKernel
	looks  func(*simConn)
	severs func(*simConn)
}

func (k spiedKernel) info(w *Watch, i *sockopt.Info) error {
	if k.looks != nil {
		k.looks(w.raw.(*simConn))
	}
	return k.simKernel.info(w, i)
}

func (k spiedKernel) sever(w *Watch, sure func(*sockopt.Info) bool) (bool, error) {
	if k.severs != nil {
		k.severs(w.raw.(*simConn))
	}
	return k.simKernel.sever(w, sure)
}

// TestSimWhoIsHeardBeforeTheEndLives: between the decision and the end.
func TestSimWhoIsHeardBeforeTheEndLives(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*simConn){
		"the flow was lost": func(c *simConn) { c.forgotten = true },
		"an outage": func(c *simConn) {
			c.host.down(c.sim.time.now, time.Hour)
			c.ours.write(fewUnacked + 1) // so that the kernel can't be the one to end it
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			c := s.open(s.host(time.Millisecond), simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), bare)
			decided := 0
			s.loop.kernel = spiedKernel{simKernel: simKernel{s}, severs: func(c *simConn) {
				decided++
				c.forgotten, c.host.outage = false, [2][]span{}
				c.peers.write(1)
				s.time.advance(s.time.now + int64(10*time.Millisecond))
			}}
			s.run(2 * time.Second)
			cut(c)
			s.run(20 * time.Second)
			assert.Equal(t, 1, decided)
			assert.Equal(t, Alive, c.watch.State())
			assert.Empty(t, s.dead())
			assert.Empty(t, s.unrestored())
		})
	}
}

// TestSimSuspectsTakeTurnsToHaveTheirSiblingsAsked: however many have left two
// questions unanswered, there is one round in suspicionEvery.
func TestSimSuspectsTakeTurnsToHaveTheirSiblingsAsked(t *testing.T) {
	t.Parallel()
	s := newSim(t, 1)
	h := s.host(time.Millisecond)
	p := simPolicy(t, PolicyConfig{DetectWithin: time.Minute, FreshFor: -1})
	sibling := s.open(h, p, bare)
	var talk func()
	talk = func() { sibling.peers.write(1); s.time.after(100*time.Millisecond, talk) }
	talk()
	for range 50 {
		s.open(h, p, bare)
	}
	s.run(2 * time.Second)
	looks := 0
	s.loop.kernel = spiedKernel{simKernel: simKernel{s}, looks: func(c *simConn) {
		if c == sibling {
			looks++
		}
	}}
	const window = 1500 * time.Millisecond // until they are ended, which is another reason to ask
	for i, c := range s.conns[1:] {
		c.forgotten = true
		s.time.after(time.Duration(i)*10*time.Millisecond, func() { s.check1(c) })
	}
	s.run(window)
	for _, c := range s.conns[1:] {
		require.GreaterOrEqual(t, c.watch.unanswered.Load(), uint32(spreadAfter))
	}
	require.Empty(t, s.dead())
	assert.Positive(t, looks)
	assert.LessOrEqual(t, looks, int(window/suspicionEvery)+2, "and the sweeps'")
}

// pausedKernel is a simKernel after whose every fourth answer this program stands
// still for a moment.
type pausedKernel struct {
	simKernel
	looks *int
	pause time.Duration
}

func (k pausedKernel) info(w *Watch, i *sockopt.Info) error {
	err := k.simKernel.info(w, i)
	if *k.looks++; *k.looks%4 == 0 {
		k.sim.time.advance(k.sim.time.now + int64(k.pause))
	}
	return err
}

// TestSimAPauseIsNoAnswer: of this program, between the kernel's word and the
// clock.
func TestSimAPauseIsNoAnswer(t *testing.T) {
	s := newSim(t, 1)
	c := s.open(s.host(time.Millisecond), simPolicy(t, PolicyConfig{DetectWithin: detectWithin}), derived(detectWithin, false))
	s.loop.kernel = pausedKernel{simKernel{s}, new(int), 3 * tick}
	s.run(2 * time.Second)
	c.host.down(s.time.now, time.Hour)
	s.run(detectWithin + time.Second)
	assert.Equal(t, []State{Suspect, Dead}, c.told)
	assert.NoError(t, s.guard.Close())
}
