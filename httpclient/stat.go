package httpclient

import (
	"cmp"
	"slices"

	"github.com/holdfast-go/holdfast/pool"
)

// Stat is a snapshot of a Client.
type Stat struct {
	Hosts   []HostStat // of now, in the order of their names
	Retries int64      // requests sent again so far
}

// HostStat are the numbers of one host.
type HostStat struct {
	Host     Host
	HTTP2    bool  // whether its connections take several requests at a time
	Requests int64 // so far
	InFlight int   // requests now: waiting, sent, or their response not read to its end
	Waiting  int   // of them, those without a connection

	// Conns are the pool's numbers: one connection in use may serve several
	// requests. Waiting, Waits and so on count those who ask for a connection
	// of their own.
	Conns pool.Stat
}

// Stat returns the Client's numbers at this moment. It takes a lock for each
// host.
func (c *Client) Stat() Stat {
	s := Stat{Retries: c.retries.Load()}
	for _, h := range c.all() {
		p := h.pool.Stat()
		hs := HostStat{
			Host:     h.name,
			HTTP2:    protocol(h.speaks.Load()) == shared,
			Requests: h.requests.Load(),
			InFlight: int(h.active.Load()),
			Conns:    p,
		}
		h.mu.Lock()
		if hs.Waiting = h.waiters.Len() + h.first; protocol(h.speaks.Load()) == exclusive {
			hs.Waiting = p.Waiting + max(h.waiters.Len()-h.acquiring, 0)
		}
		h.mu.Unlock()
		s.Hosts = append(s.Hosts, hs)
	}
	slices.SortFunc(s.Hosts, func(a, b HostStat) int { return cmp.Compare(a.Host.String(), b.Host.String()) })
	return s
}
