package httpclient

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// aRefresh is by when connections are replaced whose address has changed: the
// period, the sweep that notices that it is over, and what a busy machine needs.
const aRefresh = minRefreshPeriod + sweepEvery + time.Second

// moving is a Client under load for a name that leads to one of twins.
type moving struct {
	*twins
	clock  *netlab.Clock
	names  *nameServer
	client *Client
	moved  atomic.Int64
	url    string
}

func newMoving(t testing.TB, k kind) *moving {
	m := &moving{twins: newTwins(t, k), clock: netlab.NewClock(t)}
	m.names = newNameServer(t, m.addr[0])
	m.client = newClient(t, k, Config{
		Dialer:        m.names.dialer(t),
		RefreshPeriod: minRefreshPeriod,
		Trace:         &Trace{Moved: func(v Moved) { m.moved.Add(int64(v.Conns)) }},
	})
	calm(m.client.inner)
	m.url = urlOf(k, net.JoinHostPort("service.test", strconv.Itoa(m.port)))
	return m
}

// move changes the name's address, and waits until all connections have followed.
func (m *moving) move(t testing.TB, from, to int) {
	t.Helper()
	m.names.set(m.addr[to])
	begun := time.Now()
	assert.True(t, eventually(patience, func() bool { return m.open[from].Load() == 0 && m.open[to].Load() > 0 }),
		"%d connections to the old address, %d to the new one", m.open[from].Load(), m.open[to].Load())
	assert.LessOrEqual(t, time.Since(begun), allowed(aRefresh)+m.clock.Lost(begun))
}

func TestConnectionsFollowTheirNameThereAndBackAndNoRequestFails(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		m := newMoving(t, k)
		l := begin(t, m.client, m.url, 8)
		require.True(t, eventually(patience, func() bool { return l.done.Load() > 100 }))
		assert.NotZero(t, m.open[0].Load())
		assert.Zero(t, m.open[1].Load())
		m.move(t, 0, 1)
		m.move(t, 1, 0)
		assert.True(t, stays(100*time.Millisecond, func() bool { return m.open[1].Load() == 0 }))
		l.failsNone(t)
		assert.NotZero(t, m.moved.Load())
		if k == http2 {
			assert.LessOrEqual(t, m.moved.Load(), int64(4))
		}
	})
}

func TestALookupThatFailsChangesNothing(t *testing.T) {
	forKinds(t, func(t *testing.T, k kind) {
		m := newMoving(t, k)
		l := begin(t, m.client, m.url, 4)
		require.True(t, eventually(patience, func() bool { return l.done.Load() > 100 }))
		m.names.set() // it fails from now on
		failures := m.names.failures.Load()
		var before int64
		require.True(t, eventually(patience, func() bool { // what was looked up earlier may still be opened
			s := onlyHost(t, m.client).Conns
			before = s.Opened
			return s.Opening == 0
		}))
		require.True(t, eventually(patience, func() bool { return m.names.failures.Load() > failures }), "there was no lookup")
		assert.True(t, stays(200*time.Millisecond, func() bool { return m.open[0].Load() > 0 }))
		l.failsNone(t)
		assert.Zero(t, m.moved.Load())
		assert.Equal(t, before, onlyHost(t, m.client).Conns.Opened)
	})
}

func TestNamesThatAnswerAtRandomAreLeftAlone(t *testing.T) {
	for _, n := range []int{2, 3, 8} {
		random := rand.New(rand.NewPCG(1, uint64(n)))
		h := &host{}
		current, replaced := 0, 0
		const refreshes = 2880 // a day
		for range refreshes {
			answer := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(n))})
			gone := h.compare("name.test", []netip.Addr{answer})
			if gone(netip.AddrFrom4([4]byte{10, 0, 0, byte(current)})) {
				replaced++
				current = random.IntN(n) // what the new dial was told
			}
		}
		assert.Less(t, replaced, refreshes/3/rotates, "%d addresses", n)
	}
	h := &host{}
	old, next := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	h.compare("name.test", []netip.Addr{old})
	assert.True(t, h.compare("name.test", []netip.Addr{next})(old), "one change is a move")
}
