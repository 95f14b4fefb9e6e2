package grpcclient

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/holdfast-go/holdfast/dial"
)

// dialled are a ClientConn's connections: when the machine is slow there may have
// been further attempts at the one that it has, which failed or were closed.
type dialled struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *dialled) trace() *dial.Trace {
	return &dial.Trace{DialDone: func(_ context.Context, d dial.DialDone) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.Err == nil {
			c.conns = append(c.conns, d.Conn)
		}
	}}
}

// inspect tells the settings of the one that is open.
func (c *dialled) inspect(t *testing.T) (s dial.Socket) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	open := 0
	for _, conn := range c.conns {
		if got, err := dial.Inspect(conn); err == nil {
			s = got
			open++
		}
	}
	require.Equal(t, 1, open)
	return s
}

// gRPC sets a user timeout on the connection that a dialer returns, after the
// guard's dialer has raised its own.
func TestTheUserTimeoutInForceAfterTheHandshakeIsTheDialers(t *testing.T) {
	t.Parallel()
	for name, creds := range map[string][2]credentials.TransportCredentials{
		"plain": {}, "TLS": {serverTLS(false), clientTLS(false)}, "mutual TLS": {serverTLS(true), clientTLS(true)},
	} {
		for dialer, of := range map[string]struct {
			cfg  dial.Config
			want time.Duration
		}{
			"guarded":      {dial.Config{DetectWithin: 5 * time.Second}, 15 * time.Second},
			"unguarded":    {dial.Config{DetectWithin: 5 * time.Second, Unguarded: true}, 5 * time.Second},
			"slow readers": {dial.Config{DetectWithin: 5 * time.Second, SlowReaders: true}, 0},
			"by default":   {dial.Config{}, 30 * time.Second},
			"given": {dial.Config{
				KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}, UserTimeout: 5 * time.Second,
			}, 5 * time.Second},
			"given, and less than DetectWithin": {dial.Config{DetectWithin: 10 * time.Second, UserTimeout: 5 * time.Second}, 5 * time.Second},
			"a backstop":                        {dial.Config{SlowReaders: true, UserTimeout: time.Minute}, time.Minute},
		} {
			t.Run(name+", "+dialer, func(t *testing.T) {
				t.Parallel()
				var conns dialled
				cfg := of.cfg
				cfg.Trace = conns.trace()
				d, err := dial.New(cfg)
				require.NoError(t, err)
				t.Cleanup(func() { d.Close() })
				var server []grpc.ServerOption
				var client []grpc.DialOption
				if creds[0] != nil {
					server, client = append(server, grpc.Creds(creds[0])), append(client, grpc.WithTransportCredentials(creds[1]))
				}
				ln := listen(t)
				serve(t, ln, &tester{}, server...)
				_, err = call(t.Context(), newClient(t, ln.Addr().String(), Config{Dialer: d}, client...))
				require.NoError(t, err)
				s := conns.inspect(t)
				assert.Equal(t, of.want, s.UserTimeout)
				assert.True(t, s.KeepAlive.Enable)
			})
		}
	}
}

// It is why the Timeout must be what it is.
func TestGRPCSetsTheUserTimeoutToItsKeepaliveTimeout(t *testing.T) {
	t.Parallel()
	var conns dialled
	d, err := dial.New(dial.Config{Trace: conns.trace()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	ln := listen(t)
	serve(t, ln, &tester{})
	cc := newClient(t, ln.Addr().String(), Config{Dialer: d}, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Hour, Timeout: 7 * time.Second}))
	_, err = call(t.Context(), cc)
	require.NoError(t, err)
	assert.Equal(t, 7*time.Second, conns.inspect(t).UserTimeout)
}
