package dial

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// hasRTOMax skips the test before Linux 6.15.
func hasRTOMax(t *testing.T) {
	t.Helper()
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	err = sockopt.Control(c, func(fd uintptr) error { return sockopt.SetRTOMax(fd, 2*time.Second) })
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this kernel has no TCP_RTO_MAX_MS")
	}
	require.NoError(t, err)
}

func TestRetransmissionsAreBoundedWhereSomethingElseBoundsTheConnection(t *testing.T) {
	hasRTOMax(t)
	const s = time.Second
	for _, tt := range []struct {
		name string
		cfg  Config
		want time.Duration
		busy time.Duration
	}{
		{"zero", Config{}, s, 30 * s},
		{"given", Config{RTOMax: 1500 * time.Millisecond}, 1500 * time.Millisecond, 30 * s},
		{"negative", Config{RTOMax: -1}, maxRTOMax, 30 * s},
		{"unguarded", Config{Unguarded: true}, s, 10 * s},
		{"slow readers", Config{SlowReaders: true}, s, kernelLimit(s)},
		{"unguarded slow readers", Config{SlowReaders: true, Unguarded: true}, maxRTOMax, KernelLimit},
		{"keep-alive off", Config{KeepAlive: keepAliveOff}, maxRTOMax, KernelLimit},
		{"RarelyUsed", RarelyUsed(), 10 * s, 15 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			families(t, func(t *testing.T, network, addr string) {
				c, err := newDialer(t, tt.cfg).DialContext(t.Context(), network, addr)
				require.NoError(t, err)
				defer c.Close()
				got := inspect(t, c)
				assert.Equal(t, tt.want, got.RTOMax)
				assert.Equal(t, tt.busy, got.DetectBusy)
				if tt.want == maxRTOMax {
					assert.NotContains(t, got.String(), "RTO max")
				} else {
					assert.Contains(t, got.String(), ", RTO max "+tt.want.String()+",")
				}
			})
		})
	}
}

func TestRTOMaxIsSetBeforeTLS(t *testing.T) {
	hasRTOMax(t)
	srv := tlsServer(t)
	c, err := newDialer(t, Config{TLSConfig: srv.client}).DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, time.Second, inspect(t, c).RTOMax)
}

// This is why it is set after connecting: Linux sends at most 10 SYNs, so that
// after 11 s one a second are all.
func TestRTOMaxIsNotInForceWhileConnecting(t *testing.T) {
	hasRTOMax(t)
	var during time.Duration
	d := newDialer(t, Config{Control: func(_ context.Context, _, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) { during, _ = sockopt.RTOMax(fd) })
	}})
	c, err := d.DialContext(t.Context(), "tcp", echoServer(t, listen(t, "tcp", "127.0.0.1:0")))
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, maxRTOMax, during)
	assert.Equal(t, time.Second, inspect(t, c).RTOMax)
}

func TestAcceptedConnectionsHaveRTOMaxOnlyWithAUserTimeout(t *testing.T) {
	hasRTOMax(t)
	for _, tt := range []struct {
		name string
		cfg  Config
		want time.Duration
	}{
		{"zero", Config{}, time.Second},
		{"negative", Config{RTOMax: -1}, maxRTOMax},
		{"slow readers, as nobody guards them", Config{SlowReaders: true}, maxRTOMax},
		{"slow readers with a backstop", Config{SlowReaders: true, UserTimeout: time.Minute}, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := newDialer(t, tt.cfg).ListenConfig().Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			assert.Equal(t, tt.want, inspect(t, acceptOne(t, ln)).RTOMax)
		})
	}
}

func TestADialerKnowsWhatUserTimeoutItsConnectionsHaveInTheEnd(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	const s = time.Second
	for _, tt := range []struct {
		name string
		cfg  Config
		want time.Duration
	}{
		{"derived", Config{}, 30 * s},
		{"derived from a fraction", Config{DetectWithin: 2500 * time.Millisecond}, 7500 * time.Millisecond},
		{"derived from keep-alive", Config{KeepAlive: keepAlive(2*s, s, 3)}, 15 * s},
		{"given", Config{UserTimeout: 5 * s}, 5 * s},
		{"given beside keep-alive", Config{UserTimeout: 5 * s, KeepAlive: keepAlive(2*s, s, 3)}, 5 * s},
		{"given beside DetectWithin", Config{UserTimeout: 5 * s, DetectWithin: 10 * s}, 5 * s},
		{"a backstop", Config{SlowReaders: true, UserTimeout: time.Minute}, time.Minute},
		{"slow readers", Config{SlowReaders: true}, -1},
		{"none", Config{UserTimeout: -1}, -1},
		{"unguarded", Config{Unguarded: true}, 10 * s},
		{"keep-alive off", Config{KeepAlive: keepAliveOff}, -1},
		{"as much as the kernel holds", Config{KeepAlive: keepAlive(maxKeepAlive, maxKeepAlive, 64)}, maxUserTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDialer(t, tt.cfg)
			assert.Equal(t, tt.want, d.UserTimeout())
			c, err := d.DialContext(t.Context(), "tcp", addr)
			require.NoError(t, err)
			defer c.Close()
			assert.Equal(t, max(tt.want, 0), inspect(t, c).UserTimeout)
		})
	}
}

func TestInspectShowsTheGuardsView(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "; guard: alive, fresh for 5s"},
		{Config{FreshFor: -1}, "; guard: alive, not kept fresh"},
	} {
		d := newDialer(t, tt.cfg)
		c, err := d.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		s, err := d.Inspect(c)
		require.NoError(t, err)
		assert.Equal(t, health.Alive, s.Guard.State)
		assert.Contains(t, s.String(), tt.want)
		bare, err := Inspect(c)
		require.NoError(t, err)
		assert.Zero(t, bare.Guard)

		d.Close()
		s, err = d.Inspect(c)
		require.NoError(t, err)
		assert.Zero(t, s.Guard, "nobody guards it any more")
	}
	d := newDialer(t, Config{KeepAlive: keepAliveOff})
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	s, err := d.Inspect(c)
	require.NoError(t, err)
	assert.NotContains(t, s.String(), "guard", "it reports deaths only")
	_, err = d.Inspect(nil)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}

// starve leaves this process without descriptors until the test ends, or what it
// returns is called.
func starve(t *testing.T) (feed func()) {
	t.Helper()
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	none := old
	none.Cur = 0
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	feed = func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) }
	t.Cleanup(feed)
	return feed
}

func TestAConnectionThatCantBeWatchedIsDialledAllTheSame(t *testing.T) {
	for _, slow := range []bool{false, true} {
		ln := listen(t, "tcp", "127.0.0.1:0")
		defer ln.Close()
		var feed func()
		var done DialDone
		d := newDialer(t, Config{SlowReaders: slow, Trace: &Trace{
			ConnectDone: func(context.Context, ConnectDone) { feed = starve(t) },
			DialDone: func(_ context.Context, d DialDone) {
				feed()
				done = d
			},
		}})
		c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, done.Err)
		require.ErrorIs(t, done.GuardErr, syscall.EMFILE)
		assert.False(t, watches(d.Guard(), c))
		s, err := d.Inspect(c)
		require.NoError(t, err)
		assert.Zero(t, s.Guard)
		assert.Equal(t, 10*time.Second, s.DetectIdle, "the kernel's options protect it")
		if slow {
			assert.Equal(t, KernelLimit, s.DetectBusy, "15 retransmissions a second apart would be too few")
		}

	}
}

func TestTheCanaryIsNotSeenByTheServersProgram(t *testing.T) {
	families(t, func(t *testing.T, network, _ string) {
		ln := listen(t, network, map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network])
		defer ln.Close()
		d := newDialer(t, Config{})
		for range 20 {
			begin := time.Now()
			c, err := d.canary(t.Context(), "tcp", ln.Addr().String())
			require.NoError(t, err)
			require.NoError(t, c.Close())
			if time.Since(begin) > 30*time.Millisecond {
				t.Skip("this machine is too slow to close it before the kernel acknowledges")
			}
		}
		c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		peer, err := ln.Accept()
		require.NoError(t, err)
		defer peer.Close()
		assert.Equal(t, c.LocalAddr().String(), peer.RemoteAddr().String(), "the first that the program sees")
		require.NoError(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
		_, err = ln.Accept()
		assert.Error(t, err, "and the last")
	})
}

func TestTheCanarySaysWhenNobodyAnswers(t *testing.T) {
	d := newDialer(t, Config{})
	_, err := d.canary(t.Context(), "tcp", closedPort(t))
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	hole := blackHole(t, "127.0.0.1", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = d.canary(ctx, "tcp", hole)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	assert.True(t, ne.Timeout())
}
