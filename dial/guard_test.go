package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
)

func newGuard(t testing.TB) *health.Guard {
	t.Helper()
	g, err := health.NewGuard(health.GuardConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

// watches reports whether g watches c.
func watches(g *health.Guard, c net.Conn) bool {
	_, ok := g.View(c)
	return ok
}

func TestConnectionsAreWatchedByTheDialersGuard(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	shared := newGuard(t)
	for _, cfg := range []Config{{}, {Guard: shared}, {SlowReaders: true}, {KeepAlive: keepAliveOff}} {
		d := newDialer(t, cfg)
		require.NotNil(t, d.Guard())
		assert.Equal(t, cfg.Guard != nil, d.Guard() == shared)
		c, err := d.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		assert.True(t, watches(d.Guard(), c))
		v, ok := d.Guard().View(c)
		require.True(t, ok)
		assert.Equal(t, d.Config().DetectWithin, v.DetectWithin, "the dialer's policy is in force")
		assert.Same(t, cfg.Guard, d.Config().Guard)
		talk(t, c)
	}
}

func TestTLSConnectionsAreWatchedBelowTLS(t *testing.T) {
	srv := tlsServer(t)
	d := newDialer(t, Config{TLSConfig: srv.client})
	c, err := d.DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	assert.True(t, watches(d.Guard(), c))
	assert.True(t, watches(d.Guard(), c.(*tls.Conn).NetConn()))
	talk(t, c)
}

func TestTheHandshakeIsWatched(t *testing.T) {
	shared := newGuard(t)
	shared.Close()
	var r record
	d := newDialer(t, Config{Guard: shared, Trace: r.trace()})
	_, err := d.DialTLSContext(t.Context(), "tcp", tlsServer(t).addr)
	phase(t, err, PhaseWatch)
	for _, call := range r.calls {
		assert.NotContains(t, call, "Handshake")
	}
}

func TestAContextsGuardGoesFirst(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	pools := newGuard(t)
	for _, cfg := range []Config{{}, {Guard: newGuard(t)}} {
		d := newDialer(t, cfg)
		c, err := d.DialContext(health.ContextWithGuard(t.Context(), pools), "tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		assert.True(t, watches(pools, c))
		assert.False(t, watches(d.Guard(), c))
		v, _ := pools.View(c)
		assert.Equal(t, 10*time.Second, v.DetectWithin, "under the dialer's policy")
		s, err := d.Inspect(c)
		require.NoError(t, err)
		assert.Zero(t, s.Guard, "it is not the dialer's to tell")
	}

	pools.Close()
	_, err := newDialer(t, Config{}).DialContext(health.ContextWithGuard(t.Context(), pools), "tcp", addr)
	phase(t, err, PhaseWatch)
	assert.ErrorIs(t, err, health.ErrGuardClosed)
}

func TestAnUnguardedDialerHasNoGuardAndTakesNone(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	d := newDialer(t, Config{Unguarded: true})
	assert.Nil(t, d.Guard())
	pools := newGuard(t)
	c, err := d.DialContext(health.ContextWithGuard(t.Context(), pools), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	assert.False(t, watches(pools, c))
	s, err := d.Inspect(c)
	if err == nil {
		assert.Zero(t, s.Guard)
		assert.NotContains(t, s.String(), "guard")
	}

	pools.Close()
	c, err = d.DialContext(health.ContextWithGuard(t.Context(), pools), "tcp", addr)
	require.NoError(t, err, "a closed guard is nobody's concern")
	c.Close()
}

func TestUnixSocketsAreNotWatched(t *testing.T) {
	shared := newGuard(t)
	d := newDialer(t, Config{Guard: shared})
	addr := echoServer(t, listen(t, "unix", filepath.Join(t.TempDir(), "s")))
	c, err := d.DialContext(t.Context(), "unix", addr)
	require.NoError(t, err)
	defer c.Close()
	assert.False(t, watches(shared, c))
	shared.Close()
	c, err = d.DialContext(t.Context(), "unix", addr)
	require.NoError(t, err)
	c.Close()
}

func TestCloseEndsTheGuardThatNewMadeAndNoOther(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	shared := newGuard(t)
	for _, cfg := range []Config{{}, {Guard: shared}, {Unguarded: true}} {
		d := newDialer(t, cfg)
		c, err := d.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, d.Close())
		require.NoError(t, d.Close(), "more than once")
		talk(t, c)
		if g := d.Guard(); g != nil {
			_, err = g.Watch(c, nil, nil)
			assert.Equal(t, cfg.Guard == nil, errors.Is(err, health.ErrGuardClosed), "%v", err)
		}
	}
}

func TestAClosedDialerDoesNotDial(t *testing.T) {
	for _, cfg := range []Config{{}, {Guard: newGuard(t)}, {Unguarded: true}} {
		cfg.Control = func(context.Context, string, string, syscall.RawConn) error {
			t.Error("made a socket")
			return nil
		}
		d := newDialer(t, cfg)
		require.NoError(t, d.Close())
		for _, dial := range []func(context.Context, string, string) (net.Conn, error){d.DialContext, d.DialTLSContext} {
			c, err := dial(t.Context(), "tcp", "127.0.0.1:1")
			phase(t, err, PhaseWatch)
			assert.True(t, c == nil, "no typed nil")
			assert.ErrorIs(t, err, health.ErrGuardClosed)
			assert.EqualError(t, err, `dial: tcp "127.0.0.1:1": watch: the dialer is closed`)
			assert.True(t, health.SafeToRetry(err))
		}
	}
}

func TestCloseMayRaceWithDials(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp", "127.0.0.1:0"))
	d := newDialer(t, Config{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				c, err := d.DialContext(t.Context(), "tcp", addr)
				if err != nil {
					assert.ErrorIs(t, err, health.ErrGuardClosed)
					assert.ErrorContains(t, err, "the dialer is closed")
					return
				}
				c.Close()
			}
		})
	}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	c.Close()
	wg.Go(func() { d.Close() })
	d.Close()
	wg.Wait()
}

func TestAGuardThatItsOwnerClosedFailsTheDialAndSaysSo(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	shared := newGuard(t)
	shared.Close()
	var r record
	d := newDialer(t, Config{Guard: shared, Trace: r.trace()})
	_, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	phase(t, err, PhaseWatch)
	assert.ErrorIs(t, err, health.ErrGuardClosed)
	assert.ErrorContains(t, err, "a guard must be closed after the dialers and pools that use it")
	assert.Equal(t, err, r.done.Err)
	assert.NoError(t, r.done.GuardErr)
	assert.Nil(t, r.done.Conn)

	peer, err := ln.Accept()
	require.NoError(t, err)
	defer peer.Close()
	require.NoError(t, peer.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = peer.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF, "the connection was closed")
}

func TestConnStateIsToldOfADeath(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer ln.Close()
	dead := make(chan health.StateChange, 1)
	d := newDialer(t, Config{Trace: &Trace{ConnState: func(c health.StateChange) {
		if c.To == health.Dead {
			dead <- c
		}
	}}})
	c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	peer, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	select {
	case change := <-dead:
		assert.Equal(t, c, change.Conn)
		assert.ErrorIs(t, change.Cause, io.EOF)
		assert.False(t, change.Severed)
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
}

func TestThePolicyIsTheConfigs(t *testing.T) {
	var changes []health.StateChange
	hook := func(c health.StateChange) { changes = append(changes, c) }
	d := newDialer(t, Config{DetectWithin: 6 * time.Second, FreshFor: 2 * time.Second, Trace: &Trace{ConnState: hook}})
	p := d.policy.Config()
	assert.Equal(t, 6*time.Second, p.DetectWithin)
	assert.Equal(t, 2*time.Second, p.FreshFor)
	assert.False(t, p.AskedBeforeUse, "nobody asks before others' connections are used")
	p.StateChanged(health.StateChange{To: health.Suspect})
	assert.Equal(t, []health.StateChange{{To: health.Suspect}}, changes)

	assert.Nil(t, newDialer(t, Config{}).policy.Config().StateChanged, "what nobody wants is free")
	assert.Nil(t, newDialer(t, Config{Trace: new(Trace)}).policy.Config().StateChanged)
	assert.Negative(t, newDialer(t, Config{FreshFor: -1}).policy.Config().FreshFor)
	for _, cfg := range []Config{{KeepAlive: keepAliveOff}, {MultipathTCP: true, UserTimeout: -1}} {
		d := newDialer(t, cfg)
		assert.Nil(t, d.policy)
		assert.NotNil(t, d.Guard(), "events are still reported")
	}
}

func TestConnStateHooksAreJoined(t *testing.T) {
	var calls []string
	hook := func(name string) *Trace {
		return &Trace{ConnState: func(c health.StateChange) { calls = append(calls, name+" "+c.To.String()) }}
	}
	d := newDialer(t, Config{Trace: Join(hook("first"), new(Trace), hook("second"))})
	d.policy.Config().StateChanged(health.StateChange{To: health.Dead})
	assert.Equal(t, []string{"first dead", "second dead"}, calls)
}

func TestTheCanaryDialsAsTheConfigSays(t *testing.T) {
	addr := echoServer(t, listen(t, "tcp4", "127.0.0.1:0"))
	var hooks, controls int
	cfg := Config{
		Control: func(context.Context, string, string, syscall.RawConn) error { controls++; return nil },
		Trace: &Trace{
			DialStart:    func(ctx context.Context, _ DialStart) context.Context { hooks++; return ctx },
			ConnectStart: func(context.Context, ConnectStart) { hooks++ },
		},
	}
	var d *Dialer
	var c net.Conn
	var err error
	for range 20 { // the port may be somebody else's meanwhile
		local := listen(t, "tcp4", "127.0.0.1:0")
		cfg.LocalAddr = local.Addr().(*net.TCPAddr)
		local.Close()
		d = newDialer(t, cfg)
		if c, err = d.DialContext(t.Context(), "tcp", addr); err == nil {
			break
		}
	}
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, cfg.LocalAddr.String(), c.LocalAddr().String())
	controls, hooks = 0, 0

	canary, err := d.policy.Config().Dial(t.Context(), "tcp", addr)
	require.NoError(t, err, "the port that the connection itself has")
	defer canary.Close()
	assert.Equal(t, 1, controls, "routing marks and the like")
	assert.Zero(t, hooks)
	assert.Equal(t, "127.0.0.1", canary.LocalAddr().(*net.TCPAddr).IP.String())
	assert.False(t, watches(d.Guard(), canary))

	mine := errors.New("mine")
	d = newDialer(t, Config{Control: func(context.Context, string, string, syscall.RawConn) error { return mine }})
	_, err = d.canary(t.Context(), "tcp", addr)
	assert.ErrorIs(t, err, mine)
}

func TestDetectionIsTheStricterOfKernelAndGuard(t *testing.T) {
	const s = time.Second
	kernel := Socket{DetectIdle: 10 * s, DetectBusy: 14400 * time.Millisecond, KeepAlive: keepAlive(4*s, 2*s, 3)}
	alive := health.View{State: health.Alive, DetectWithin: 5 * s, FreshFor: 2 * s}
	for _, tt := range []struct {
		name       string
		change     func(*Socket, *health.View)
		idle, busy time.Duration
	}{
		{"the guard's", func(*Socket, *health.View) {}, 5 * s, 5 * s},
		{"the kernel's", func(_ *Socket, v *health.View) { v.DetectWithin = 20 * s }, 10 * s, 14400 * time.Millisecond},
		{"no policy", func(_ *Socket, v *health.View) { v.DetectWithin, v.FreshFor = 0, 0 }, 10 * s, 14400 * time.Millisecond},
		{"dead", func(_ *Socket, v *health.View) { v.State = health.Dead }, 10 * s, 14400 * time.Millisecond},
		{"a system that doesn't say", func(_ *Socket, v *health.View) { v.Heard = -1 }, 10 * s, 14400 * time.Millisecond},
		{"not kept fresh, but by keep-alive", func(_ *Socket, v *health.View) { v.FreshFor = -1 }, 5 * s, 5 * s},
		{"not kept fresh", func(k *Socket, v *health.View) {
			k.DetectIdle, k.KeepAlive, v.FreshFor = Never, net.KeepAliveConfig{}, -1
		}, Never, 5 * s},
		{"keep-alive comes too late", func(k *Socket, v *health.View) { k.KeepAlive.Idle, v.FreshFor = 5*s, -1 }, 10 * s, 5 * s},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, v := kernel, alive
			tt.change(&k, &v)
			k.guarded(v)
			assert.Equal(t, v, k.Guard)
			assert.Equal(t, tt.idle, k.DetectIdle)
			assert.Equal(t, tt.busy, k.DetectBusy)
		})
	}
}
