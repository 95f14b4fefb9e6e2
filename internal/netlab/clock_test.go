package netlab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAClockCountsWhatIsLostSinceThen(t *testing.T) {
	t0 := time.Now()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	c := &Clock{last: at(100), stalls: []stall{{at(10), 5 * time.Second}, {at(20), time.Second}}}
	require.Equal(t, 6*time.Second, c.Lost(at(0)))
	require.Equal(t, 3*time.Second, c.Lost(at(8)), "the first was half over by then")
	require.Equal(t, time.Second, c.Lost(at(10)))
	require.Zero(t, c.Lost(at(20)))
	c = &Clock{last: t0.Add(-time.Minute)}
	require.Greater(t, c.Lost(t0.Add(-30*time.Second)), 29*time.Second, "it has not ticked since")
}

func TestAClockKnowsDelaysThatAreNoLoss(t *testing.T) {
	c := &Clock{last: time.Now().Add(time.Hour)} // no tick comes between
	t0 := c.last
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	for _, ms := range []int{11, 27, 37, 87} {
		c.note(at(ms))
	}
	require.Equal(t, 40*time.Millisecond, sum(c.stalls, t0))
	require.Equal(t, 6*time.Millisecond, sum(c.delays, t0))
	require.Zero(t, sum(c.delays, at(27)))
	c = &Clock{last: time.Now(), delays: c.delays, stalls: c.stalls}
	require.Equal(t, 46*time.Millisecond, c.Delayed(t0))
	require.Equal(t, 40*time.Millisecond, c.Lost(t0))
}
