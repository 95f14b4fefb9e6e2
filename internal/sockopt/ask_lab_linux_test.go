package sockopt

import (
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestAskIsAnsweredByThePeersKernel(t *testing.T) {
	together(t, map[string]func(*testing.T){
		"at once, when the peer was heard a second ago": testAskAnswered,
		"when a second is over, if it was heard since":  testAskFresh,
		"under TLS":                                          testAskTLS,
		"and counted until then":                             testAskLost,
		"but not twice in half a second":                     testAskRateLimit,
		"also after the peer has closed":                     testAskCloseWait,
		"but not sent while data is unacknowledged":          testAskInFlight,
		"by a reset if the peer doesn't know the connection": testAskReboot,
	})
}

func testAskAnswered(t *testing.T) {
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, labPort)
	var clients, servers []*net.TCPConn
	for range 50 {
		clients = append(clients, labDial(t, lab, lab.Server.Addr(labPort)))
		servers = append(servers, labAccept(t, ln))
	}
	var took []time.Duration
	for i, c := range clients {
		before := setTimers(t, c, KeepAlive{i%2 == 0, 40 * time.Second, 7 * time.Second, 3}, 0)
		untilSilent(t, c, time.Second)
		peer := info(t, servers[i])

		q := ask(t, c)
		took = append(took, q.awaitAnswer(t))
		restore(t, c, before)

		after := info(t, c)
		assert.Equal(t, q.info.SegsOut+1, after.SegsOut)
		assert.Equal(t, q.info.SegsIn+1, after.SegsIn)
		assert.Equal(t, q.info.DataSegsOut, after.DataSegsOut)
		assert.Equal(t, q.info.DataSegsIn, after.DataSegsIn)
		assert.Equal(t, peer.DataSegsIn, info(t, servers[i]).DataSegsIn)
		assert.Equal(t, before, timers(t, c))
		passes(t, c, servers[i])
		passes(t, servers[i], c)
	}
	slices.Sort(took)
	t.Logf("from Ask to the answer: p50 %v, p99 %v", took[len(took)/2], took[len(took)-1])
	assert.Less(t, took[len(took)/2], 50*time.Millisecond)
}

func testAskFresh(t *testing.T) {
	w := wired(t)
	passes(t, w.client, w.server)
	untilSilent(t, w.client, 300*time.Millisecond)
	q := ask(t, w.client)
	earliest, latest := untilSent(t, w.client, q.info, q.begin)
	t.Logf("asked %v after the peer was heard, sent after %v to %v", q.info.SincePeerHeard(), earliest, latest)
	assert.Greater(t, latest, 700*time.Millisecond)
	assert.Less(t, earliest, 1300*time.Millisecond)
	q.awaitAnswer(t)
}

// untilSent waits until c's kernel has sent something since the last look, and
// returns how long its peer had been silent by then, at least and at most.
func untilSent(t *testing.T, c net.Conn, last Info, looked time.Time) (earliest, latest time.Duration) {
	t.Helper()
	until(t, 5*time.Second, "a probe", func() bool {
		begin, i := time.Now(), info(t, c)
		if i.SegsOut == last.SegsOut {
			last, looked = i, begin
			return false
		}
		earliest = last.SincePeerHeard()
		latest = earliest + time.Since(looked)
		return true
	})
	return earliest, latest
}

func testAskTLS(t *testing.T) {
	w := wired(t)
	c, s := w.withTLS(t)
	before := setTimers(t, c, KeepAlive{true, 40 * time.Second, 7 * time.Second, 3}, 9*time.Second)
	blocked := reading(c)
	untilSilent(t, c, time.Second)
	q := ask(t, c)
	t.Logf("from Ask to the answer: %v", q.awaitAnswer(t))
	restore(t, c, before)
	assert.Equal(t, before, timers(t, c))
	assert.Equal(t, q.info.DataSegsOut, info(t, c).DataSegsOut)
	assert.Empty(t, blocked, "the reader noticed nothing")
	_, err := s.Write([]byte{1})
	require.NoError(t, err)
	require.NoError(t, await(t, blocked).err)
	passes(t, c, s)
}

func testAskLost(t *testing.T) {
	w := wired(t)
	setTimers(t, w.client, KeepAlive{true, 40 * time.Second, 40 * time.Second, 9}, 0)
	untilSilent(t, w.client, time.Second)
	w.lab.Drop()
	for n := range 3 {
		q := ask(t, w.client)
		until(t, 5*time.Second, "a probe", func() bool { return info(t, w.client).Probes == uint8(n+1) })
		assert.True(t, q.sent(t))
		assert.False(t, q.answered(t))
	}
	w.lab.Heal()
	ask(t, w.client).awaitAnswer(t)
	assert.Zero(t, info(t, w.client).Probes)
}

func testAskRateLimit(t *testing.T) {
	w := wired(t)
	setTimers(t, w.client, KeepAlive{true, 40 * time.Second, 40 * time.Second, 9}, 0)
	untilSilent(t, w.client, time.Second)
	w.lab.Drop(netlab.FromServer)
	server := info(t, w.server)
	first := ask(t, w.client)
	until(t, 5*time.Second, "an answer that is lost", func() bool { return info(t, w.server).SegsOut != server.SegsOut })
	w.lab.Heal()
	until(t, time.Second, "its time", func() bool { return time.Since(first.begin) > 200*time.Millisecond })
	server = info(t, w.server)
	second := ask(t, w.client)
	until(t, 5*time.Second, "the second probe", func() bool { return info(t, w.server).SegsIn != server.SegsIn })
	arrived := time.Since(first.begin)
	until(t, time.Second, "its time", func() bool { return time.Since(first.begin) > 450*time.Millisecond })
	if arrived < 450*time.Millisecond { // or else this machine is too slow to tell
		assert.False(t, second.answered(t))
		assert.Equal(t, server.SegsOut, info(t, w.server).SegsOut)
		t.Logf("a probe %v after the first: no answer", arrived)
	}
	until(t, time.Second, "its time", func() bool { return time.Since(first.begin) > 600*time.Millisecond })
	third := ask(t, w.client)
	t.Logf("a probe 600 ms after the first: answer after %v", third.awaitAnswer(t))
}

func testAskCloseWait(t *testing.T) {
	w := wired(t)
	require.NoError(t, w.server.CloseWrite())
	until(t, 5*time.Second, "a FIN", func() bool { return info(t, w.client).State == StateCloseWait })
	untilSilent(t, w.client, time.Second)
	ask(t, w.client).awaitAnswer(t)
}

func testAskInFlight(t *testing.T) {
	w := wired(t)
	untilSilent(t, w.client, time.Second)
	w.lab.Drop()
	_, err := w.client.Write([]byte{1})
	require.NoError(t, err)
	ask(t, w.client)
	until(t, 5*time.Second, "retransmissions", func() bool { return info(t, w.client).Retransmits >= 3 })
	assert.Zero(t, info(t, w.client).Probes)
}

func testAskReboot(t *testing.T) {
	w := wired(t)
	untilSilent(t, w.client, time.Second)
	blocked := reading(w.client)
	w.lab.Server.Reboot()
	q := ask(t, w.client)
	until(t, 5*time.Second, "the reset", func() bool { return info(t, w.client).State == StateClose })
	t.Logf("from Ask to the reset: %v", time.Since(q.begin))
	assert.False(t, q.answered(t))
	assert.ErrorIs(t, await(t, blocked).err, syscall.ECONNRESET)
}

func TestUnansweredProbesKillOnlyUnshielded(t *testing.T) {
	settings := KeepAlive{true, 2 * time.Second, 2 * time.Second, 3}
	rare := KeepAlive{true, 2 * time.Second, 40 * time.Second, 9}
	off := KeepAlive{false, 2 * time.Second, 2 * time.Second, 3}
	together(t, map[string]func(*testing.T){
		"at the next tick, though the path is whole":        testLeftoverProbe,
		"at the tick of the restored idle time":             testLeftoverProbeRestored,
		"not behind a shield, however long the silence was": testShield,
		"on Restore, after the user timeout": func(t *testing.T) {
			testVerdict(t, settings, 3*time.Second, 3500*time.Millisecond, true)
		},
		"on Restore, after the count of probes": func(t *testing.T) {
			testVerdict(t, settings, 0, 4500*time.Millisecond, true)
		},
		"not on Restore before the user timeout": func(t *testing.T) {
			testVerdict(t, settings, time.Minute, 3500*time.Millisecond, false)
		},
		"not on Restore before the count of probes": func(t *testing.T) {
			testVerdict(t, rare, 0, 3500*time.Millisecond, false)
		},
		"not on Restore where keep-alive was off":                   func(t *testing.T) { testNoVerdict(t, off) },
		"not on Restore, but a retransmission, with data in flight": testVerdictInFlight,
	})
}

// leftover loses one probe on a path that is whole before and after.
func (w wire) leftover(t *testing.T) {
	t.Helper()
	untilSilent(t, w.client, time.Second)
	w.lab.Drop()
	ask(t, w.client)
	until(t, time.Second, "a probe", func() bool { return info(t, w.client).Probes == 1 })
	w.lab.Heal()
}

func testLeftoverProbe(t *testing.T) {
	w := wired(t)
	setTimers(t, w.client, KeepAlive{true, 40 * time.Second, 3 * time.Second, 9}, 3*time.Second)
	blocked := reading(w.client)
	begin := time.Now()
	w.leftover(t)
	out := info(t, w.client).SegsOut
	o := await(t, blocked)
	assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
	assert.Equal(t, out+1, info(t, w.client).SegsOut, "nothing but a reset was sent since")
	t.Logf("killed %v after the peer was heard", o.at.Sub(begin))
}

func testLeftoverProbeRestored(t *testing.T) {
	w := wired(t)
	before := setTimers(t, w.client, KeepAlive{true, 4 * time.Second, 40 * time.Second, 9}, 3*time.Second)
	blocked := reading(w.client)
	begin := time.Now()
	w.leftover(t)
	restore(t, w.client, before)
	o := await(t, blocked)
	assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
	t.Logf("killed %v after the peer was heard", o.at.Sub(begin))
}

func testShield(t *testing.T) {
	w := wired(t)
	before := setTimers(t, w.client, KeepAlive{true, 2 * time.Second, 2 * time.Second, 2}, 3*time.Second)
	saved := before
	untilSilent(t, w.client, time.Second)
	w.lab.Drop()
	shield(t, w.client, &saved)
	ask(t, w.client)
	untilSilent(t, w.client, 5500*time.Millisecond)
	i := info(t, w.client)
	t.Logf("alive after %v of silence with %d unanswered probes", i.SincePeerHeard(), i.Probes)
	assert.Equal(t, StateEstablished, i.State)
	assert.GreaterOrEqual(t, int(i.Probes), 4, "the kernel repeats them")

	w.lab.Heal()
	ask(t, w.client).awaitAnswer(t)
	restore(t, w.client, saved)
	assert.Equal(t, before, timers(t, w.client))

	// It asks by itself again, when its own idle time is over.
	begin := time.Now()
	_, silent := untilSent(t, w.client, info(t, w.client), begin)
	assert.Greater(t, silent, 1500*time.Millisecond)
	until(t, 5*time.Second, "its answer", func() bool { return info(t, w.client).Probes == 0 })
	untilSilent(t, w.client, 1500*time.Millisecond)
	passes(t, w.client, w.server)
	passes(t, w.server, w.client)
}

// silenced brings a connection into an outage, shielded.
func silenced(t *testing.T, ka KeepAlive, timeout, silence time.Duration) (wire, Timers, <-chan outcome) {
	t.Helper()
	w := wired(t)
	saved := setTimers(t, w.client, ka, timeout)
	blocked := reading(w.client)
	untilSilent(t, w.client, time.Second)
	w.lab.Drop()
	shield(t, w.client, &saved)
	ask(t, w.client)
	untilSilent(t, w.client, silence)
	require.Empty(t, blocked)
	return w, saved, blocked
}

func testVerdict(t *testing.T, ka KeepAlive, timeout, silence time.Duration, dies bool) {
	w, saved, blocked := silenced(t, ka, timeout, silence)
	clock := netlab.NewClock(t)
	before, begin := info(t, w.client), time.Now()
	restore(t, w.client, saved)
	if dies {
		o := await(t, blocked)
		took := o.at.Sub(begin) - clock.Lost(begin)
		t.Logf("%d probes unanswered; dead %v after Restore", before.Probes, took)
		assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
		assert.Less(t, took, 500*time.Millisecond)
		return
	}
	took := until(t, time.Second, "a probe", func() bool { return info(t, w.client).Probes > before.Probes })
	t.Logf("%d probes unanswered; one more %v after Restore", before.Probes, took)
	assert.Equal(t, StateEstablished, info(t, w.client).State)
	assert.Empty(t, blocked)
}

func testNoVerdict(t *testing.T, ka KeepAlive) {
	w, saved, blocked := silenced(t, ka, 3*time.Second, 3500*time.Millisecond)
	before := info(t, w.client)
	restore(t, w.client, saved)
	untilSilent(t, w.client, 5*time.Second)
	after := info(t, w.client)
	assert.Equal(t, before.SegsOut, after.SegsOut)
	assert.Equal(t, StateEstablished, after.State)
	assert.Empty(t, blocked)
}

func testVerdictInFlight(t *testing.T) {
	w := wired(t)
	saved := setTimers(t, w.client, KeepAlive{true, 2 * time.Second, 2 * time.Second, 3}, 3*time.Second)
	blocked := reading(w.client)
	w.lab.Drop()
	shield(t, w.client, &saved)
	_, err := w.client.Write([]byte{1})
	require.NoError(t, err)
	untilSilent(t, w.client, 3500*time.Millisecond)
	begin := time.Now()
	restore(t, w.client, saved)
	o := await(t, blocked)
	t.Logf("dead %v after Restore", o.at.Sub(begin))
	assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
}
