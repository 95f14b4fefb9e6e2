package httpclient

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// A Transport sends on what it has until that was severed, and from then on fails
// nothing.
func TestATransportsIdleConnectionsAreSeveredWhenTheirFlowsAreLost(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind) {
		n := 20
		if k == http2 {
			n = 1 // of which a Transport dials more than it keeps, if asked at once
		}
		l := newLab(t, k, netlab.Config{NAT: true}, meeting(n, nil), Config{})
		tr := l.transport(t)
		l.fill(t, tr, n)
		lost := time.Now()
		l.ForgetNAT()
		last := l.died(t, n, lost, l.found(t, labFresh+3*time.Second))
		l.noticed(t)
		o := l.inTurn(t, tr, "/", 20)
		t.Logf("severed %d ms after the loss; then %v", last.Sub(lost).Milliseconds(), o)
		assert.Empty(t, o.failed)
	})
}

func TestATransportsRequestInFlightFailsByDetectWithinAndTheNextSucceeds(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind) {
		arrived := make(chan string, 1)
		l := newLab(t, k, netlab.Config{NAT: true}, meeting(1, arrived), Config{})
		tr := l.transport(t)
		_, err := get(t.Context(), tr, l.url)
		require.NoError(t, err)
		asked := after(func() error { return l.post(t.Context(), tr, "/first") })
		<-arrived
		lost := time.Now()
		l.ForgetNAT()
		err = <-asked
		took := time.Since(lost)
		require.Error(t, err)
		if l.clock.Lost(lost) == 0 || !errors.Is(err, syscall.ETIMEDOUT) { // the kernel's word, if the guard stood still
			assert.Equal(t, health.Conn, health.Classify(err), "%v", err)
		}
		assert.LessOrEqual(t, took, l.limit(lost, labWithin+time.Second))
		next, err := get(t.Context(), tr, l.url)
		t.Logf("failed %d ms after the loss; the next one took %d ms", took.Milliseconds(), next.Milliseconds())
		require.NoError(t, err)
		assert.LessOrEqual(t, next, l.limit(lost, time.Second))
	})
}

// died waits until n connections have died by the guard's hand, and returns when
// the last one did.
func (l *lab) died(t *testing.T, n int, since time.Time, within time.Duration) time.Time {
	t.Helper()
	eventually(within+10*time.Second, func() bool { _, dead := l.count(); return dead >= n })
	l.mu.Lock()
	defer l.mu.Unlock()
	require.GreaterOrEqual(t, len(l.deaths), n, "so many of %d must have died", l.dialed)
	last := l.deaths[n-1].at
	require.LessOrEqual(t, last.Sub(since), l.limit(since, within))
	for _, d := range l.deaths {
		var silence *health.SilenceError
		if assert.ErrorAs(t, d.Cause, &silence) {
			assert.True(t, silence.Fresh || l.lossy || l.clock.Lost(since) > 0, "%v", d.Cause)
		}
	}
	return last
}

// noticed waits until the owner of each connection that died has read that, and
// closed it. A request that is faster fails.
func (l *lab) noticed(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.deaths {
		raw, err := d.Conn.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.True(t, eventually(5*time.Second, func() bool { return raw.Control(func(uintptr) {}) != nil }))
	}
}
