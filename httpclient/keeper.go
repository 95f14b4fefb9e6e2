package httpclient

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/pool"
)

// keeper is the goroutine that forgets hosts and refreshes addresses. It runs
// while there are hosts.
type keeper struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	on      bool // under the Client's lock

	refreshed int64 // when addresses were last looked up
}

// start is called with the Client's lock held.
func (k *keeper) start(c *Client) {
	if k.on {
		return
	}
	k.on = true
	k.refreshed = c.now()
	if k.ctx == nil {
		k.ctx, k.cancel = context.WithCancel(context.Background())
	}
	k.running.Go(func() {
		next := time.NewTimer(sweepEvery)
		defer next.Stop()
		for {
			select {
			case <-next.C:
			case <-k.ctx.Done():
				return
			}
			every, ok := c.keep(k.ctx)
			if !ok {
				return
			}
			next.Reset(every)
		}
	})
}

// stop is called when the Client is closed.
func (k *keeper) stop() {
	if k.cancel != nil {
		k.cancel()
	}
	k.running.Wait()
}

const (
	// sweepEvery is how often the keeper looks at what is open while requests are
	// under way.
	sweepEvery = 250 * time.Millisecond
	restEvery  = time.Second // and while none are
)

// keep does what is due, and returns when to come again, or false if there is
// nothing left to keep.
func (c *Client) keep(ctx context.Context) (again time.Duration, ok bool) {
	for _, h := range c.takeUnused() {
		end, cancel := context.WithTimeout(ctx, time.Second)
		_ = h.close(end) // nobody uses it
		cancel()
	}
	again = restEvery
	for _, h := range c.all() {
		h.sweep()
		if h.active.Load() > 0 {
			again = sweepEvery
		}
	}
	if d := c.cfg.HostIdleTime / 2; d > 0 {
		again = max(min(again, d), time.Millisecond)
	}
	if every := int64(c.cfg.RefreshPeriod); every > 0 && c.now()-c.keeper.refreshed >= every {
		c.keeper.refreshed = c.now()
		c.refresh(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hosts) == 0 {
		c.keeper.on = false
	}
	return again, c.keeper.on
}

// takeUnused takes the hosts out that no request has gone to for long.
func (c *Client) takeUnused() (unused []*host) {
	limit := int64(c.cfg.HostIdleTime)
	if limit == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.hosts {
		if h.active.Load() == 0 && c.now()-h.lastUsed.Load() >= limit {
			delete(c.hosts, key)
			unused = append(unused, h)
		}
	}
	return unused
}

// addresses is what is known of a name.
type addresses struct {
	history [rotation][]netip.Addr // the latest answers, the last one first
}

const (
	// rotates is after how many changes within rotation a name is taken for one
	// that gives now these addresses, now those.
	rotates = 3
	// rotation is in how many answers in a row an address of such a name must
	// be missing.
	rotation = 10

	lookupTimeout  = 5 * time.Second
	maxConcurrency = 8 // lookups at a time
)

// refresh looks up the names again to which there are connections, and retires
// those whose address isn't among them.
func (c *Client) refresh(ctx context.Context) {
	var wg sync.WaitGroup
	places := make(chan struct{}, maxConcurrency)
	for _, h := range c.all() {
		for _, name := range h.dialedNames() {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				h.refresh(ctx, name)
			})
		}
	}
	wg.Wait()
}

// dialedNames returns the names that led to the host's connections, of which
// there is one, as a rule, and notes that others are in use no more.
func (h *host) dialedNames() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for cn := range h.conns {
		if name := cn.name(); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for name := range h.names {
		if !slices.Contains(names, name) {
			delete(h.names, name)
		}
	}
	return names
}

// name is the host name that led to the connection; empty if it was an address.
func (cn *conn) name() string {
	name, _, err := net.SplitHostPort(cn.dialed)
	if err != nil {
		return ""
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return name
}

func (h *host) refresh(ctx context.Context, name string) {
	resolver := h.client.dialer.Config().Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	begun := h.client.now()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	answer, err := resolver.LookupNetIP(ctx, "ip", name)
	if err != nil || len(answer) == 0 {
		return
	}
	gone := h.compare(name, answer)
	// A younger connection comes from a younger answer, perhaps.
	n := h.pool.RetireIf(pool.ReasonReset, func(cn *conn) bool { return cn.born < begun && cn.name() == name && gone(cn.remote()) })
	if t := h.client.cfg.Trace; n > 0 && t.Moved != nil {
		t.Moved(Moved{Host: h.name, Name: name, Conns: n})
	}
}

// remote is the peer's address, or the zero Addr.
func (cn *conn) remote() netip.Addr {
	if a, ok := cn.raw.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// compare notes an answer, and returns what tells whether an address is gone.
func (h *host) compare(name string, answer []netip.Addr) func(netip.Addr) bool {
	for i, a := range answer {
		answer[i] = a.Unmap().WithZone("")
	}
	slices.SortFunc(answer, netip.Addr.Compare)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		h.names = make(map[string]*addresses)
	}
	known := h.names[name]
	if known == nil {
		known = &addresses{}
		h.names[name] = known
	}
	copy(known.history[1:], known.history[:])
	known.history[0] = answer
	changes := 0
	for i, a := range known.history[1:] {
		if a != nil && !slices.Equal(a, known.history[i]) {
			changes++
		}
	}
	current := known.history[:1]
	if changes >= rotates {
		current = known.history[:]
	}
	current = slices.Clone(current)
	return func(a netip.Addr) bool {
		return a.IsValid() && !slices.ContainsFunc(current, func(as []netip.Addr) bool { return slices.Contains(as, a) })
	}
}
