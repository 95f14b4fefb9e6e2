package dial

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

const labPort = 6379

// slack is what the promise allows beside DetectWithin: one retransmission, or
// what the guard waits for its last question to be answered or repeated.
const slack = time.Second

// allowed is what something may take here that is promised within a time.
func allowed(within time.Duration) time.Duration {
	if raceEnabled {
		within += time.Second
	}
	return within
}

// labEcho accepts on the server and echoes.
func labEcho(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	go accept(lab.Server.Listen(t, labPort), echoes)
}

// labDialer is for dials by lab.Client: what the guard does stays in the lab.
func labDialer(t *testing.T, lab *netlab.Lab, cfg Config) *Dialer {
	t.Helper()
	d := newDialer(t, cfg)
	if !cfg.Unguarded {
		d.canary = lab.Client.Dialer(d.canary)
	}
	return d
}

func labDial(t *testing.T, lab *netlab.Lab, d *Dialer) net.Conn {
	t.Helper()
	c, err := lab.Client.Dial(t.Context(), d.DialContext, lab.Server.Addr(labPort))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// stopwatch measures this machine's time.
type stopwatch struct {
	clock *netlab.Clock
	begin time.Time
}

func watched(t *testing.T) stopwatch {
	return stopwatch{netlab.NewClock(t), time.Now()}
}

func (s stopwatch) took() time.Duration { return s.clock.Since(s.begin) }

// detected waits for c's death in a Read, and requires that it is in time and
// of the path. If a guard ended it, which it may do in place of the kernel, it
// must say that it was because of DetectWithin.
func detected(t *testing.T, d *Dialer, c net.Conn, since stopwatch, within time.Duration, errnos ...error) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(within+10*time.Second)))
	_, err := c.Read(make([]byte, 1))
	judge(t, d, c, err, since.took(), within, errnos...)
}

// judge is detected for a Read that has ended.
func judge(t *testing.T, d *Dialer, c net.Conn, err error, took, within time.Duration, errnos ...error) {
	t.Helper()
	t.Logf("%v after %v", err, took)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "nothing was noticed")
	assert.LessOrEqual(t, took, allowed(within+slack))
	if d.Guard() != nil && errors.Is(err, syscall.ECONNRESET) {
		var silence *health.SilenceError
		require.ErrorAs(t, d.Guard().Cause(c), &silence)
		assert.False(t, silence.Fresh, "no new connection works")
		return
	}
	var is bool
	for _, errno := range errnos {
		is = is || errors.Is(err, errno)
	}
	assert.True(t, is, "%v", err)
}

// guardedOrNot names a Config's subtest.
func guardedOrNot(cfg Config) string {
	if cfg.Unguarded {
		return "the kernel alone"
	}
	return "with a guard"
}

// Row b of the faults that the module must survive.
func TestSilentDropWhileAReadWaitsAfterAWrite(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{DetectWithin: 2 * time.Second}, {DetectWithin: 2 * time.Second, Unguarded: true},
		{DetectWithin: 5 * time.Second}, {DetectWithin: 5 * time.Second, Unguarded: true},
	} {
		t.Run(guardedOrNot(cfg)+" "+cfg.DetectWithin.String(), func(t *testing.T) {
			t.Parallel()
			lab := netlab.New(t)
			labEcho(t, lab)
			d := labDialer(t, lab, cfg)
			c := labDial(t, lab, d)
			talk(t, c)
			lab.Drop()
			begin := watched(t)
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			detected(t, d, c, begin, cfg.DetectWithin, syscall.ETIMEDOUT)
		})
	}
}

func TestAnIdleConnectionDiesWhenDetectionTimeSays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"2s", Config{DetectWithin: 2 * time.Second}},
		{"3.7s", Config{DetectWithin: 3700 * time.Millisecond}},
		{"5s", Config{DetectWithin: 5 * time.Second}},
		{"slow readers", Config{DetectWithin: 5 * time.Second, SlowReaders: true}},
		{"slow readers with a backstop", Config{SlowReaders: true, UserTimeout: 5500 * time.Millisecond,
			KeepAlive: keepAlive(time.Second, 2*time.Second, 1)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.New(t)
			labEcho(t, lab)
			tt.cfg.Unguarded = true
			d := labDialer(t, lab, tt.cfg)
			c := labDial(t, lab, d)
			s, err := Inspect(c)
			require.NoError(t, err)
			want, _ := DetectionTime(s.KeepAlive, s.UserTimeout)
			require.Equal(t, want, s.DetectIdle)
			if tt.cfg.DetectWithin > 0 {
				require.LessOrEqual(t, want, tt.cfg.DetectWithin)
			}
			talk(t, c)
			begin := time.Now()
			lab.Drop()
			detected(t, d, c, watched(t), want, syscall.ETIMEDOUT)
			assert.GreaterOrEqual(t, time.Since(begin), want-500*time.Millisecond, "nor before the probes had their chance")
		})
	}
}

func TestOneLostProbeKillsNothing(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	labEcho(t, lab)
	c := labDial(t, lab, labDialer(t, lab, Config{DetectWithin: 5 * time.Second})) // probes 2, 3 and 4 s after the last word
	talk(t, c)
	lab.Drop()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(3300*time.Millisecond)))
	_, err := c.Read(make([]byte, 1)) // two probes are lost meanwhile
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	lab.Heal()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(4*time.Second)))
	_, err = c.Read(make([]byte, 1)) // would have died at 5 s
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	talk(t, c)
}

// Row c.
func TestUnreachableOnDialIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	lab, clock := netlab.New(t), netlab.NewClock(t)
	labEcho(t, lab)
	lab.Unreachable()
	// Without it the answer comes while the socket is still locked by connect,
	// and Linux waits for the next SYN's. No real network is that fast.
	lab.Delay(2*time.Millisecond, 0)
	for _, addr := range []string{lab.Server.Addr(labPort), lab.Server.Addr6(labPort)} {
		begin := time.Now()
		_, err := lab.Client.Dial(t.Context(), labDialer(t, lab, Config{DetectWithin: 5 * time.Second}).DialContext, addr)
		took := clock.Since(begin)
		assert.ErrorIs(t, err, syscall.EHOSTUNREACH, addr)
		phase(t, err, PhaseConnect)
		assert.ErrorContains(t, err, "no route to it", addr)
		assert.Less(t, took, allowed(700*time.Millisecond), addr)
	}
}

func TestUnreachableWhileIdleAndInFlightIsNoticedInTime(t *testing.T) {
	t.Parallel()
	const within = 3 * time.Second
	path := []error{syscall.EHOSTUNREACH, syscall.ETIMEDOUT}
	for _, tt := range []struct {
		name   string
		busy   bool
		cfg    Config
		within time.Duration
		want   []error
	}{
		{"idle", false, Config{DetectWithin: within}, within, path},
		{"in flight", true, Config{DetectWithin: within}, within, path},
		{"in flight, fast unreachable", true, Config{DetectWithin: 10 * time.Second, FastUnreachable: true}, time.Second, path[:1]},
		// Answers to keep-alive probes are outside the window, so they don't count.
		{"idle, fast unreachable", false, Config{DetectWithin: within, FastUnreachable: true}, within, path[1:]},
	} {
		for _, unguarded := range []bool{false, true} {
			tt := tt
			tt.cfg.Unguarded = unguarded
			t.Run(tt.name+", "+guardedOrNot(tt.cfg), func(t *testing.T) {
				t.Parallel()
				lab := netlab.New(t)
				labEcho(t, lab)
				d := labDialer(t, lab, tt.cfg)
				c := labDial(t, lab, d)
				talk(t, c)
				lab.Unreachable()
				begin := watched(t)
				if tt.busy {
					_, err := c.Write([]byte("x"))
					require.NoError(t, err)
				}
				detected(t, d, c, begin, tt.within, tt.want...)
			})
		}
	}
}

// Row g. The peer's kernel answers every probe of its closed window.
func TestAPeerThatLivesButDoesNotRead(t *testing.T) {
	t.Parallel()
	const within = 5 * time.Second
	for _, tt := range []struct {
		name  string
		slow  bool
		lives bool
	}{{"lives with SlowReaders", true, true}, {"dies without", false, false}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.New(t)
			deaf := lab.Server.ListenDeaf(t, labPort)
			c := labDial(t, lab, labDialer(t, lab, Config{DetectWithin: within, SlowReaders: tt.slow, WriteBuffer: 16 << 10}))
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(4*within)))
			watch := watched(t)
			sent, err := io.Copy(c, endless{})
			took := time.Since(watch.begin)
			t.Logf("%v after %v, %d bytes", err, took, sent)
			if !tt.lives {
				if watch.took() == took { // a process that stands still is no faster than the kernel
					assert.ErrorIs(t, err, syscall.ECONNRESET, "the guard was faster than the kernel")
				}
				assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.Greater(t, took, backstopFactor*within-time.Second)
				return
			}
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "our own patience, not the kernel's")
			deaf.Hear()
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(30*time.Second)))
			_, err = c.Write([]byte("are you listening now?"))
			require.NoError(t, err)
			require.NoError(t, c.(*net.TCPConn).CloseWrite())
			require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF, "it took everything")
			assert.Greater(t, deaf.Received(), sent)
		})
	}
}

// endless is a Reader without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestADeadAddressIsGivenUpWithinTheTimeout(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	labEcho(t, lab)
	lab.Drop()
	dial := func(ctx context.Context, cfg Config) (time.Duration, error) {
		begin := time.Now()
		_, err := lab.Client.Dial(ctx, labDialer(t, lab, cfg).DialContext, lab.Server.Addr(labPort))
		return time.Since(begin), err
	}

	took, err := dial(t.Context(), Config{Timeout: time.Second})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "no answer within Config.Timeout, 1s")
	assert.True(t, err.(*Error).PathTimeout())
	assert.Less(t, took, allowed(3*time.Second))

	took, err = dial(t.Context(), Config{DetectWithin: 2 * time.Second, Timeout: time.Minute})
	assert.ErrorIs(t, err, syscall.ETIMEDOUT, "the user timeout bounds connecting, too")
	assert.Less(t, took, allowed(4*time.Second))

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	took, err = dial(ctx, Config{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotContains(t, err.Error(), "Config.Timeout", "it was the caller's")
	assert.False(t, err.(*Error).PathTimeout())
	assert.Less(t, took, allowed(2*time.Second))
}

func TestAMultipathConnectionWaitsForAnotherPathBeforeItDies(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	const wait = 2 * time.Second
	err := lab.Client.Do(func() error { return os.WriteFile("/proc/sys/net/mptcp/close_timeout", []byte("2"), 0) })
	if err != nil {
		t.Skip("this kernel has no net.mptcp.close_timeout:", err)
	}
	server := newDialer(t, Config{MultipathTCP: true, UserTimeout: -1})
	var ln net.Listener
	require.NoError(t, lab.Server.Do(func() (err error) {
		ln, err = server.ListenConfig().Listen(t.Context(), "tcp", lab.Server.Addr(labPort))
		return err
	}))
	defer ln.Close()
	cfg := Config{MultipathTCP: true, UserTimeout: -1, KeepAlive: keepAlive(time.Second, time.Second, 2)}
	d := labDialer(t, lab, cfg)
	c := labDial(t, lab, d)
	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	var s Socket
	require.NoError(t, lab.Client.Do(func() (err error) { // reads the namespace's setting
		s, err = Inspect(c)
		return err
	}))
	require.True(t, s.MultipathInUse)
	require.Equal(t, 3*time.Second+wait, s.DetectIdle)
	begin := time.Now()
	lab.Drop()
	detected(t, d, c, watched(t), s.DetectIdle, syscall.ENOTCONN)
	assert.Greater(t, time.Since(begin), s.DetectIdle-500*time.Millisecond)
}

func TestAListenerNoticesThatItsClientVanished(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	d := newDialer(t, Config{DetectWithin: 2 * time.Second, Unguarded: true})
	var ln net.Listener
	require.NoError(t, lab.Server.Do(func() (err error) {
		ln, err = d.ListenConfig().Listen(t.Context(), "tcp", ":6379")
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	labDial(t, lab, labDialer(t, lab, Config{}))
	c := <-accepted
	require.NotNil(t, c)
	defer c.Close()
	lab.Drop()
	detected(t, d, c, watched(t), 2*time.Second, syscall.ETIMEDOUT)
}
