package pool_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	netlab.Parallel()
	goleak.VerifyTestMain(m)
}

// allowed is what something may take here that is promised within a time.
func allowed(within time.Duration) time.Duration {
	if pool.RaceEnabled {
		within += time.Second
	}
	return within
}

var errRefused = errors.New("refused by the test")

// conn is a connection without a socket, for tests of the pool's logic.
type conn struct {
	id     int
	owner  atomic.Int64 // token of who believes to hold it
	closed atomic.Bool
}

// factory opens conns and counts what is alive.
type factory struct {
	mu      sync.Mutex
	opened  int
	live    int
	most    int
	closed  int
	opening int
	mostOp  int
	times   []time.Time
	fail    error
	block   bool // Open waits for its context
	takes   time.Duration
}

func (f *factory) open(ctx context.Context) (*conn, error) {
	f.mu.Lock()
	f.opening++
	f.mostOp = max(f.mostOp, f.opening)
	f.times = append(f.times, time.Now())
	fail, block, takes := f.fail, f.block, f.takes
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.opening--
		f.mu.Unlock()
	}()
	if takes > 0 {
		time.Sleep(takes) // virtual: only used in synctest bubbles
	}
	if block {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if fail != nil {
		return nil, fail
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	f.live++
	f.most = max(f.most, f.live)
	return &conn{id: f.opened}, nil
}

func (f *factory) close(c *conn) error {
	if c.closed.Swap(true) {
		return errors.New("closed twice")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live--
	f.closed++
	return nil
}

func (f *factory) set(fail error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *factory) mostLive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

func (f *factory) counts() (opened, live, closed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened, f.live, f.closed
}

// newPool makes a pool of conns and closes it at the end of the test, when
// nothing may be left of it.
func newPool(t testing.TB, f *factory, edit func(*pool.Config[*conn])) *pool.Pool[*conn] {
	t.Helper()
	cfg := pool.Config[*conn]{Open: f.open, Close: f.close, MaxConns: 4}
	if edit != nil {
		edit(&cfg)
	}
	p, err := pool.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { closePool(t, p); requireNothingLeft(t, f) })
	return p
}

func closePool[T any](t testing.TB, p *pool.Pool[T]) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, p.Close(ctx))
	s := p.Stat()
	require.Zero(t, s.Total, "connections left after Close")
	require.Zero(t, s.Waiting, "callers left after Close")
}

func requireNothingLeft(t testing.TB, f *factory) {
	_, live, _ := f.counts()
	require.Zero(t, live, "connections that were opened and never closed")
}

func acquire[T any](t testing.TB, p *pool.Pool[T]) pool.Conn[T] {
	t.Helper()
	c, err := p.Acquire(context.Background())
	require.NoError(t, err)
	return c
}

// doBriefly calls Do with a deadline that comes while f runs, which waits for it.
// On a busy machine it may come before f has begun; then there is another try.
func doBriefly[T any](t testing.TB, p *pool.Pool[T], f func(context.Context, T) error) error {
	t.Helper()
	for patience := 20 * time.Millisecond; patience < time.Minute; patience *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		began := false
		err := p.Do(ctx, func(ctx context.Context, v T) error {
			began = true
			return f(ctx, v)
		})
		cancel()
		if began {
			return err
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	t.Fatal("no connection in time")
	return nil
}

// acquireInVain has a second to see an open fail, or on a busy machine another.
// It returns what the caller was told.
func acquireInVain[T any](t testing.TB, p *pool.Pool[T]) error {
	t.Helper()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := p.Acquire(ctx)
		cancel()
		var ae *pool.AcquireError
		require.ErrorAs(t, err, &ae)
		if ae.OpenErr != nil {
			return err
		}
	}
	t.Fatal("no open has failed")
	return nil
}

// fill opens n connections and leaves them idle.
func fill[T any](t testing.TB, p *pool.Pool[T], n int) {
	t.Helper()
	held := make([]pool.Conn[T], n)
	for i := range held {
		held[i] = acquire(t, p)
	}
	for _, c := range held {
		c.Release()
	}
	require.Equal(t, n, p.Stat().Idle)
}
