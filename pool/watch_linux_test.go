package pool_test

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// watchSockets looks at the client's kernel all the time, and reports when it
// holds more connections than the limit. The kernel takes its time to list them,
// in which one may end and another begin. So it counts those that are in two lists
// in a row, all of which were there in the moment between the two.
func watchSockets(lab *netlab.Lab, limit int) (stop func() error) {
	var ended atomic.Bool
	var most int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for before := map[netip.AddrPort]bool{}; !ended.Load(); {
			now := map[netip.AddrPort]bool{}
			both := 0
			for _, s := range lab.Client.Conns() {
				if s.State == netlab.LastAck {
					continue // both sides have closed it
				}
				now[s.Local] = true
				if before[s.Local] {
					both++
				}
			}
			most = max(most, both)
			before = now
		}
	}()
	return func() error {
		ended.Store(true)
		<-done
		if most > limit || most == 0 {
			return fmt.Errorf("%d connections at once, the limit is %d", most, limit)
		}
		return nil
	}
}
