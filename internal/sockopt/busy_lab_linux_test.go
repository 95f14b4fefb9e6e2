package sockopt

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestAskingDuringTrafficHarmsNothing(t *testing.T) {
	t.Parallel()
	w := wired(t)
	before := setTimers(t, w.client, KeepAlive{true, 40 * time.Second, 7 * time.Second, 3}, 9*time.Second)
	go func() { io.Copy(w.server, w.server) }()
	stop, ended := make(chan struct{}), make(chan struct{})
	var trips atomic.Int64
	go func() {
		defer close(ended)
		roundTrips(t, w.client, stop, &trips)
	}()
	const cycles, most, least = 20000, 1_000_000, 100
	done := 0
	var tm Timers
	begin := time.Now()
	on(t, w.client, func(fd uintptr) {
		for ; done < cycles || trips.Load() <= least && done < most; done++ {
			err := ReadTimers(fd, &tm)
			if done%2 == 0 {
				err = errors.Join(err, Shield(fd, time.Hour))
				tm.Shielded = time.Hour
			}
			err = errors.Join(err, Ask(fd), Restore(fd, &tm))
			require.NoError(t, err)
		}
	})
	took := time.Since(begin)
	close(stop)
	<-ended
	t.Logf("%d cycles, %v each, beside %d round trips", done, took/time.Duration(done), trips.Load())
	assert.Greater(t, trips.Load(), int64(least))
	assert.Equal(t, before, timers(t, w.client))
	assert.Equal(t, StateEstablished, info(t, w.client).State)
	untilSilent(t, w.client, time.Second)
	ask(t, w.client).awaitAnswer(t)
}

// roundTrips sends and receives until stop is closed or something is wrong.
func roundTrips(t *testing.T, c net.Conn, stop <-chan struct{}, n *atomic.Int64) {
	got := make([]byte, 1000)
	for ; ; n.Add(1) {
		select {
		case <-stop:
			return
		default:
		}
		want := bytes.Repeat([]byte{byte(n.Load())}, len(got))
		if _, err := c.Write(want); !assert.NoError(t, err) {
			return
		}
		if _, err := io.ReadFull(c, got); !assert.NoError(t, err) || !assert.True(t, bytes.Equal(want, got)) {
			return
		}
	}
}

func TestABoundedRetransmissionTimeOut(t *testing.T) {
	tests := map[string]func(*testing.T){
		"brings a connection back a second after an outage": testRTOMaxBack,
		"makes a live peer with a closed window heard":      testZeroWindow,
		"lets a restored user timeout kill that peer soon":  testZeroWindowVerdict,
	}
	if !testing.Short() {
		tests["kills after 15 retransmissions, without a user timeout"] = testRTOMaxKills
		tests["doesn't, if a user timeout is set meanwhile"] = testRTOMaxRescued
	}
	together(t, tests)
}

// boundRTO bounds c's retransmission time-out by a second.
func boundRTO(t *testing.T, c net.Conn) {
	t.Helper()
	on(t, c, func(fd uintptr) {
		err := SetRTOMax(fd, time.Second)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip("needs Linux 6.15:", err)
		}
		require.NoError(t, err)
	})
}

// inFlight brings a connection whose retransmission time-out is bounded by a
// second into an outage, with data in flight.
func inFlight(t *testing.T, timeout time.Duration) (wire, time.Time) {
	t.Helper()
	w := wired(t)
	boundRTO(t, w.client)
	on(t, w.client, func(fd uintptr) { require.NoError(t, SetUserTimeout(fd, timeout)) })
	w.lab.Drop()
	_, err := w.client.Write([]byte{42})
	require.NoError(t, err)
	return w, time.Now()
}

func testRTOMaxBack(t *testing.T) {
	w, _ := inFlight(t, time.Minute)
	untilSilent(t, w.client, 12*time.Second)
	retransmits := info(t, w.client).Retransmits
	assert.Greater(t, retransmits, uint8(10))
	clock := netlab.NewClock(t)
	w.lab.Heal()
	begin := time.Now()
	until(t, 5*time.Second, "an acknowledgement", func() bool { return info(t, w.client).Unacked == 0 })
	took := clock.Since(begin)
	t.Logf("%d retransmissions; acknowledged %v after the heal", retransmits, took)
	assert.Less(t, took, 1500*time.Millisecond)
	passes(t, w.server, w.client)
}

func testRTOMaxKills(t *testing.T) {
	w, begin := inFlight(t, 0)
	blocked := reading(w.client)
	until(t, 25*time.Second, "the end", func() bool { return info(t, w.client).State == StateClose })
	o := await(t, blocked)
	t.Logf("dead after %v", o.at.Sub(begin))
	assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
	assert.InDelta(t, 15, o.at.Sub(begin).Seconds(), 3)
}

func testRTOMaxRescued(t *testing.T) {
	w, begin := inFlight(t, 0)
	untilSilent(t, w.client, 3*time.Second)
	on(t, w.client, func(fd uintptr) { require.NoError(t, SetUserTimeout(fd, time.Minute)) })
	untilSilent(t, w.client, 16500*time.Millisecond)
	i := info(t, w.client)
	t.Logf("alive after %v, %d retransmissions", time.Since(begin), i.Retransmits)
	assert.Equal(t, StateEstablished, i.State)
	w.lab.Heal()
	until(t, 5*time.Second, "an acknowledgement", func() bool { return info(t, w.client).Unacked == 0 })
}

// A peer that doesn't read is told from one that is gone by its answers to the
// window's probes. The second of them may come too soon after the first to be
// answered (tcp_invalid_ratelimit).
func testZeroWindow(t *testing.T) {
	lab := netlab.New(t)
	lab.Server.ListenDeaf(t, labPort)
	c := labDial(t, lab, lab.Server.Addr(labPort))
	boundRTO(t, c)
	fill(t, c)
	begin := time.Now()
	var oldest, later time.Duration
	var probes, retransmits uint8
	until(t, 15*time.Second, "ten seconds", func() bool {
		i := info(t, c)
		oldest, probes, retransmits = max(oldest, i.LastAckRecv), max(probes, i.Probes), max(retransmits, i.Retransmits)
		if time.Since(begin) > 3*time.Second {
			later = max(later, i.LastAckRecv)
		}
		return time.Since(begin) > 10*time.Second
	})
	i := info(t, c)
	t.Logf("alive: heard at least every %v, after 3 s every %v; at most %d probes unanswered, %d retransmissions; at last backoff %d, window %d, %d bytes in flight, %d not sent",
		oldest, later, probes, retransmits, i.Backoff, i.SndWnd, i.Unacked, i.NotSent)
	assert.Less(t, oldest, 1600*time.Millisecond)
	assert.LessOrEqual(t, probes, uint8(2))
	assert.Zero(t, i.SndWnd)
	assert.NotZero(t, i.NotSent)

	lab.Drop()
	clock, dropped := netlab.NewClock(t), time.Now()
	for n := uint8(1); n <= 3; n++ {
		until(t, 10*time.Second, "probes", func() bool { return info(t, c).Probes >= n })
		i := info(t, c)
		t.Logf("gone for %v: %d probes unanswered, heard %v ago", time.Since(dropped), i.Probes, i.LastAckRecv)
	}
	assert.Less(t, clock.Since(dropped), 5*time.Second)
}

// The user timeout counts from the first probe, not from the last answer.
func testZeroWindowVerdict(t *testing.T) {
	lab := netlab.New(t)
	lab.Server.ListenDeaf(t, labPort)
	c := labDial(t, lab, lab.Server.Addr(labPort))
	boundRTO(t, c)
	saved := setTimers(t, c, KeepAlive{true, 2 * time.Second, 2 * time.Second, 3}, 3*time.Second)
	shield(t, c, &saved)
	fill(t, c)
	blocked, begin := reading(c), time.Now()
	until(t, 10*time.Second, "more than the user timeout", func() bool { return time.Since(begin) > 4500*time.Millisecond })
	heard := info(t, c).LastAckRecv
	assert.Less(t, heard, 1600*time.Millisecond)
	begin = time.Now()
	restore(t, c, saved)
	o := await(t, blocked)
	t.Logf("heard %v before; dead %v after Restore", heard, o.at.Sub(begin))
	assert.ErrorIs(t, o.err, syscall.ETIMEDOUT)
}
