//go:build race

package pool

const raceEnabled = true // under which a sync.Pool forgets on purpose
