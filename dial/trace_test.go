package dial

import (
	"context"
	"fmt"
	"net"
	"reflect"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type key string

func TestJoinCoversEveryHook(t *testing.T) {
	var calls []string
	recorder := func(name string) *Trace {
		tr := new(Trace)
		v := reflect.ValueOf(tr).Elem()
		for i := range v.NumField() {
			f := v.Field(i)
			f.Set(reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
				calls = append(calls, name)
				if f.Type().NumOut() == 0 {
					return nil
				}
				ctx := args[0].Interface().(context.Context) // only start hooks return anything
				assert.Equal(t, name == "second", ctx.Value(key("first")) != nil, "start hooks are chained")
				return []reflect.Value{reflect.ValueOf(context.WithValue(ctx, key(name), true)).Convert(f.Type().Out(0))}
			}))
		}
		return tr
	}
	joined := Join(nil, recorder("first"), nil, new(Trace), recorder("second"))
	v := reflect.ValueOf(joined).Elem()
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		require.False(t, f.IsNil(), "Join forgot %s", name)
		calls = nil
		args := []reflect.Value{reflect.Zero(f.Type().In(f.Type().NumIn() - 1))}
		if f.Type().NumIn() == 2 {
			args = append([]reflect.Value{reflect.ValueOf(t.Context())}, args...)
		}
		out := f.Call(args)
		assert.Equal(t, []string{"first", "second"}, calls, name)
		if len(out) > 0 {
			assert.NotNil(t, out[0].Interface().(context.Context).Value(key("second")), name)
		}
	}
}

func TestJoinKeepsWhatNobodyWantsFree(t *testing.T) {
	assert.Nil(t, Join())
	assert.Nil(t, Join(nil, nil))
	assert.Equal(t, &Trace{}, Join(&Trace{}, &Trace{}))

	one := &Trace{DialDone: func(context.Context, DialDone) {}}
	joined := Join(one)
	require.NotNil(t, joined.DialDone)
	joined.DialDone = nil
	assert.NotNil(t, one.DialDone, "the trace itself is not changed")
}

func TestStartHooksMayReturnNoContext(t *testing.T) {
	ctx := context.WithValue(t.Context(), key("mine"), 1)
	tr := Join(
		&Trace{DialStart: func(context.Context, DialStart) context.Context { return nil }},
		&Trace{DialStart: func(c context.Context, _ DialStart) context.Context { assert.Equal(t, ctx, c); return nil }},
	)
	assert.Equal(t, ctx, tr.DialStart(ctx, DialStart{}))
}

// record is a Trace that writes down the names of the hooks that were called.
type record struct {
	mu    sync.Mutex
	calls []string
	done  DialDone
}

func (r *record) add(ctx context.Context, s string) {
	if ctx.Value(key("dial")) == nil && s != "DialStart" {
		s += " without DialStart's context"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, s)
}

func (r *record) trace() *Trace {
	return &Trace{
		DialStart: func(ctx context.Context, s DialStart) context.Context {
			r.add(ctx, "DialStart")
			return context.WithValue(ctx, key("dial"), s)
		},
		DialDone: func(ctx context.Context, d DialDone) {
			r.add(ctx, "DialDone")
			r.done = d
		},
		LookupStart: func(ctx context.Context, s LookupStart) { r.add(ctx, "LookupStart "+s.Host) },
		LookupDone:  func(ctx context.Context, d LookupDone) { r.add(ctx, "LookupDone") },
		ConnectStart: func(ctx context.Context, s ConnectStart) {
			r.add(ctx, "ConnectStart "+s.Network+" "+s.Address)
		},
		ConnectDone: func(ctx context.Context, d ConnectDone) {
			r.add(ctx, "ConnectDone "+d.Network+" "+d.Address)
		},
		HandshakeStart: func(ctx context.Context, s HandshakeStart) context.Context {
			r.add(ctx, "HandshakeStart "+s.ServerName)
			return context.WithValue(ctx, key("handshake"), s)
		},
		HandshakeDone: func(ctx context.Context, d HandshakeDone) {
			if ctx.Value(key("handshake")) == nil {
				r.add(ctx, "HandshakeDone without HandshakeStart's context")
			}
			r.add(ctx, fmt.Sprint("HandshakeDone ", d.State.HandshakeComplete))
		},
	}
}

func TestTraceSeesADialFromEndToEnd(t *testing.T) {
	srv := tlsServer(t)
	var r record
	d := newDialer(t, Config{TLSConfig: srv.client, Trace: r.trace()})
	c, err := d.DialTLSContext(t.Context(), "tcp", srv.addr)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, []string{
		"DialStart",
		"ConnectStart tcp " + srv.addr, "ConnectDone tcp " + srv.addr,
		"HandshakeStart 127.0.0.1", "HandshakeDone true",
		"DialDone",
	}, r.calls)
	assert.Same(t, c, r.done.Conn)
	assert.NoError(t, r.done.Err)
	assert.True(t, r.done.TLS)
	assert.Positive(t, r.done.Duration)
}

func TestTraceSeesAFailedDial(t *testing.T) {
	var r record
	d := newDialer(t, Config{Trace: r.trace()})
	_, err := d.DialContext(t.Context(), "tcp", closedPort(t))
	require.Error(t, err)
	assert.Equal(t, err, r.done.Err)
	assert.Nil(t, r.done.Conn)

	r.calls = nil
	_, err = d.DialTLSContext(t.Context(), "udp", "x")
	require.Error(t, err)
	assert.Equal(t, []string{"DialStart", "DialDone"}, r.calls)
	assert.Nil(t, r.done.Conn, "not a nil pointer in an interface")
}

// newDialer is New for a Config that must be right.
func newDialer(t testing.TB, cfg Config) *Dialer {
	t.Helper()
	d, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// closedPort returns an address that nothing listens on. It is that of a
// connection's dialled end, so that nobody else takes it before the test ends.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}
