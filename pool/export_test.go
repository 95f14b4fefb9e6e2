package pool

import (
	"time"

	"github.com/holdfast-go/holdfast/health"
)

const RaceEnabled = raceEnabled

// Tell does to a connection without a socket what the guard's callback does to
// others. The handle may be an old one.
func Tell[T any](c Conn[T], state health.State) {
	p := c.e.pool
	if state == health.Dead {
		p.died(c.e, nil)
		return
	}
	p.mu.Lock()
	if state == health.Suspect && !c.e.has(flagSuspect) {
		c.e.heardAt, c.e.doubtedAt = p.tickLocked(), p.clock
	}
	p.heed(c.e, state)
}

// Accuse makes a suspect of a connection whose peer has not been asked yet.
func Accuse[T any](c Conn[T]) {
	p := c.e.pool
	p.mu.Lock()
	c.e.heardAt = p.tickLocked()
	c.e.doubtedAt = p.clock + int64(accusedFor)
	p.heed(c.e, health.Suspect)
}

// AskAfter gives a pool a FreshFor of which its guard knows nothing, so that
// connections become older than that, as they otherwise do when nobody has used
// them for a minute.
func AskAfter[T any](p *Pool[T], d time.Duration) { p.freshFor, p.unquestioned = int64(d), int64(d) }
