package netlab_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// silent requires that nothing comes back on c, and nothing is said about it.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	var timeout net.Error
	err := exchange(c, 300*time.Millisecond)
	require.ErrorAs(t, err, &timeout, "%v", err)
	require.True(t, timeout.Timeout(), "%v", err)
}

// dialError dials where an answer comes.
func dialError(t *testing.T, lab *netlab.Lab, addr string) error {
	t.Helper()
	return dialWithin(t, lab, addr, soon)
}

// dialSilence dials where none does.
func dialSilence(t *testing.T, lab *netlab.Lab, addr string) {
	t.Helper()
	requireTimeout(t, dialWithin(t, lab, addr, 300*time.Millisecond))
}

func dialWithin(t *testing.T, lab *netlab.Lab, addr string, patience time.Duration) error {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	c, err := lab.Client.Dial(t.Context(), d.DialContext, addr)
	if err == nil {
		c.Close()
	}
	return err
}

func requireTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
}

// eachFamily runs f for a lab's IPv4 and IPv6 server address.
func eachFamily(t *testing.T, cfg netlab.Config, f func(t *testing.T, lab *netlab.Lab, addr string)) {
	for name, addr := range map[string]func(*netlab.Host) string{
		"v4": func(h *netlab.Host) string { return h.Addr(port) },
		"v6": func(h *netlab.Host) string { return h.Addr6(port) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewWith(t, cfg)
			go echo(lab.Server.Listen(t, port))
			f(t, lab, addr(lab.Server))
		})
	}
}

func TestDropIsSilentAndHealLetsTheSameConnectionGoOn(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))

		lab.Drop()
		silent(t, c)
		dialSilence(t, lab, addr)

		lab.Heal()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
		_, err := io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err, "what was written into the silence arrives after it")
		require.NoError(t, exchange(c, soon))
	})
}

func TestDropLetsTheUserTimeoutOfTheSenderExpire(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		c := dial(t, lab, addr)
		userTimeout(t, c, 500*time.Millisecond)
		require.NoError(t, exchange(c, soon))
		lab.Drop()
		require.ErrorIs(t, exchange(c, soon), syscall.ETIMEDOUT)
	})
}

func TestDropOfOneDirectionLeavesTheOther(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		drop    func(*netlab.Lab)
		arrives bool
	}{
		"to server":                 {func(l *netlab.Lab) { l.Drop(netlab.ToServer) }, false},
		"to server, client's cable": {func(l *netlab.Lab) { l.Client.Drop(netlab.ToServer) }, false},
		"from server":               {func(l *netlab.Lab) { l.Drop(netlab.FromServer) }, true},
		"from server, client's":     {func(l *netlab.Lab) { l.Client.Drop(netlab.FromServer) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.New(t)
			ln := lab.Server.Listen(t, port)
			c := dial(t, lab, lab.Server.Addr(port))
			s, err := ln.Accept()
			require.NoError(t, err)

			tc.drop(lab)
			_, err = c.Write([]byte("x"))
			require.NoError(t, err)
			patience := 300 * time.Millisecond
			if tc.arrives {
				patience = soon
			}
			require.NoError(t, s.SetReadDeadline(time.Now().Add(patience)))
			n, err := s.Read(make([]byte, 1))
			if tc.arrives {
				require.NoError(t, err)
			} else {
				requireTimeout(t, err)
			}
			assert.Equal(t, tc.arrives, n == 1)
			conns := lab.Client.Conns()
			require.Len(t, conns, 1)
			assert.Equal(t, 1, conns[0].Unacked, "no acknowledgement comes back either way")
		})
	}
}

func TestUnreachableFailsDialsAtOnceAndIsASoftErrorInFlight(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		lab.Delay(time.Millisecond, 0)
		clock := netlab.NewClock(t)
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))

		lab.Unreachable()
		for range 20 { // none of the messages is rate-limited
			start := time.Now()
			_, err := lab.Client.Dial(t.Context(), nil, addr)
			require.ErrorIs(t, err, syscall.EHOSTUNREACH)
			require.Less(t, clock.Since(start), 800*time.Millisecond, "before the SYN is sent again")
		}
		silent(t, c)

		lab.Heal()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
		_, err := io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err)

		lab.Unreachable()
		userTimeout(t, c, 300*time.Millisecond)
		require.ErrorIs(t, exchange(c, soon), syscall.EHOSTUNREACH)
	})
}

func TestRefuseAnswersSynsAndSegmentsWithResets(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))
		lab.Refuse()
		require.ErrorIs(t, dialError(t, lab, addr), syscall.ECONNREFUSED)
		require.ErrorIs(t, exchange(c, soon), syscall.ECONNRESET)
		lab.Heal()
		require.NoError(t, exchange(dial(t, lab, addr), soon))
	})
}

func TestForgottenFlowsAreSilentAndNewOnesWork(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]netlab.Config{"nat": {NAT: true}, "stateless": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, cfg, func(t *testing.T, lab *netlab.Lab, addr string) {
				for range 3 { // as often as one likes
					c := dial(t, lab, addr)
					require.NoError(t, exchange(c, soon))

					lab.ForgetNAT()
					silent(t, c)
					require.NoError(t, exchange(dial(t, lab, addr), soon))
					lab.Heal()
					silent(t, c)
					require.NoError(t, exchange(dial(t, lab, addr), soon))
				}
			})
		})
	}
}

func TestForgottenFlowsAreSilentTowardsTheClientToo(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]netlab.Config{"nat": {NAT: true}, "stateless": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewWith(t, cfg)
			ln := lab.Server.Listen(t, port)
			c := dial(t, lab, lab.Server.Addr(port))
			s, err := ln.Accept()
			require.NoError(t, err)
			userTimeout(t, s, 400*time.Millisecond)

			lab.ForgetNAT()
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
			_, err = s.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ETIMEDOUT, "no reset came back")
			require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			_, err = c.Read(make([]byte, 1))
			requireTimeout(t, err)
		})
	}
}

func TestNATHidesTheClientAndForgetsIdleFlows(t *testing.T) {
	t.Parallel()
	lab := netlab.NewWith(t, netlab.Config{NAT: true, NATTimeout: 2 * time.Second})
	ln := lab.Server.Listen(t, port)
	c := dial(t, lab, lab.Server.Addr(port))
	s, err := ln.Accept()
	require.NoError(t, err)
	assert.Equal(t, "10.0.1.1", s.RemoteAddr().(*net.TCPAddr).IP.String())
	assert.Equal(t, lab.Client.IPv4().String(), c.LocalAddr().(*net.TCPAddr).IP.String())
	go func() { _, _ = io.Copy(s, s) }()

	require.NoError(t, exchange(c, soon))
	<-time.After(3500 * time.Millisecond) // what is waited for is silence
	silent(t, c)
}

func TestResetAnswersSegmentsOfOldFlowsOnly(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]netlab.Config{"nat": {NAT: true}, "stateless": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, cfg, func(t *testing.T, lab *netlab.Lab, addr string) {
				c := dial(t, lab, addr)
				require.NoError(t, exchange(c, soon))
				lab.Reset()
				require.NoError(t, exchange(dial(t, lab, addr), soon))
				require.ErrorIs(t, exchange(c, soon), syscall.ECONNRESET)
			})
		})
	}
}

func TestFaultsOfOneServerLeaveTheOtherAlone(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*netlab.Host){
		"drop":        func(h *netlab.Host) { h.Drop() },
		"unreachable": (*netlab.Host).Unreachable,
		"refuse":      (*netlab.Host).Refuse,
		"forget":      (*netlab.Host).ForgetNAT,
		"reset":       (*netlab.Host).Reset,
		"loss":        func(h *netlab.Host) { h.Loss(100) },
		"reboot":      (*netlab.Host).Reboot,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewWith(t, netlab.Config{Servers: 2})
			conns := make([]net.Conn, 2)
			for i, s := range lab.Servers {
				go echo(s.Listen(t, port))
				conns[i] = dial(t, lab, s.Addr(port))
				require.NoError(t, exchange(conns[i], soon))
			}
			fault(lab.Servers[0])
			require.NoError(t, exchange(conns[1], soon))
			require.NoError(t, exchange(dial(t, lab, lab.Servers[1].Addr(port)), soon))
			require.Error(t, exchange(conns[0], 300*time.Millisecond))
		})
	}
}

func TestLossLosesSomePacketsAndTCPGetsThrough(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	go echo(lab.Server.Listen(t, port))
	c := dial(t, lab, lab.Server.Addr(port))
	lab.Loss(5)
	before := lab.Client.Traffic()
	server := lab.Server.Traffic()
	const size = 1 << 20
	go func() { _, _ = c.Write(make([]byte, size)) }()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(4*soon)))
	_, err := io.ReadFull(c, make([]byte, size))
	require.NoError(t, err)
	sent := lab.Client.Traffic().SentPackets - before.SentPackets
	arrived := lab.Server.Traffic().ReceivedPackets - server.ReceivedPackets
	assert.Greater(t, sent, int64(size/1500), "whole segments, one by one")
	assert.Less(t, arrived, sent, "of %d packets", sent)
	assert.Greater(t, arrived, sent/2, "of %d packets", sent)
}

func TestRateLimitsBothDirections(t *testing.T) {
	t.Parallel()
	const rate, size = 8_000_000, 400_000 // 0.4 s
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, port)
	lab.Rate(rate)
	c := dial(t, lab, lab.Server.Addr(port))
	s, err := ln.Accept()
	require.NoError(t, err)
	for name, ends := range map[string][2]net.Conn{"to server": {c, s}, "from server": {s, c}} {
		start := time.Now()
		go func() { _, _ = ends[0].Write(make([]byte, size)) }()
		require.NoError(t, ends[1].SetReadDeadline(time.Now().Add(2*soon)))
		_, err := io.ReadFull(ends[1], make([]byte, size))
		require.NoError(t, err, name)
		assert.Greater(t, time.Since(start), 300*time.Millisecond, name)
	}
	lab.Heal()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(4*soon)))
	clock, start := netlab.NewClock(t), time.Now()
	go func() { _, _ = c.Write(make([]byte, 10*size)) }()
	_, err = io.ReadFull(s, make([]byte, 10*size))
	require.NoError(t, err)
	assert.Less(t, clock.Since(start), 3*time.Second, "of 4 with the limit")
}

func TestALongQueueHoldsPacketsBack(t *testing.T) {
	t.Parallel()
	const rate, queue = 1_000_000, 500 * time.Millisecond
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, port)
	go echo(ln)
	c := dial(t, lab, lab.Server.Addr(port))
	bulk := dial(t, lab, lab.Server.Addr(port))
	lab.Rate(rate, queue)
	go func() { _, _ = bulk.Write(make([]byte, rate/8*3)) }()
	require.Eventually(t, func() bool {
		start := time.Now()
		return exchange(c, 4*soon) == nil && time.Since(start) > queue/2
	}, 8*soon, time.Millisecond)
}

func TestDelayAddsToTheRoundTrip(t *testing.T) {
	t.Parallel()
	eachFamily(t, netlab.Config{}, func(t *testing.T, lab *netlab.Lab, addr string) {
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))
		roundTrip := func() time.Duration {
			start := time.Now()
			require.NoError(t, exchange(c, soon))
			return time.Since(start)
		}
		lab.Delay(20*time.Millisecond, 5*time.Millisecond)
		lab.Server.Delay(10*time.Millisecond, 0)
		require.NoError(t, exchange(c, soon), "the connection survives the change of cables")
		assert.GreaterOrEqual(t, roundTrip(), 60*time.Millisecond)
		lab.Server.Reboot()
		go echo(lab.Server.Listen(t, port))
		c = dial(t, lab, addr)
		assert.GreaterOrEqual(t, roundTrip(), 60*time.Millisecond)
		lab.Heal()
		quickest := roundTrip()
		for begin := time.Now(); quickest >= 60*time.Millisecond && time.Since(begin) < soon; {
			quickest = min(quickest, roundTrip())
		}
		assert.Less(t, quickest, 60*time.Millisecond)
	})
}
