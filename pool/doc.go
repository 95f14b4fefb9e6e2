// Package pool keeps connections of any type and never hands out one that the
// kernel knows to be dead.
//
//	p, err := pool.New(pool.Config[net.Conn]{
//		Open: func(ctx context.Context) (net.Conn, error) {
//			return d.DialContext(ctx, "tcp", "redis:6379")
//		},
//		Ping:     health.RedisPing, // optional
//		MaxConns: 16,
//	})
//	err = p.Do(ctx, func(ctx context.Context, c net.Conn) error { … })
//
// # What it does with a connection
//
//	Open ──▶ idle ──Acquire──▶ in use ──Release, Fail with an app's error──▶ idle
//	           │                  └──Fail with an I/O error, lifetime, Reset──▶ closed
//	           └──event, peek, ping, idle limit, lifetime, Reset──▶ closed
//
// The kernel's verdicts (FIN, RST, keep-alive and user-timeout death) arrive
// as events and take an idle connection out of the pool at once. A peek at
// checkout closes the gap that a busy or frozen process leaves, unless the
// connection was checked out within the last millisecond. If Config.Ping is
// set it asks the peer itself, on the connection that is about to be used,
// once per PingPeriod. When one ping fails, all idle connections whose ping is
// due are asked together: many dead connections cost one timeout, not one each.
//
// A connection that waits idle costs no goroutine.
//
// # The limit is a limit
//
// Connections being opened, live and being closed never exceed
// Config.MaxConns together. Each holds a resource of a puddle pool from the
// start of its dial to the end of its close; which caller gets which
// connection is decided in front of that, in one short critical section.
//
// # Waiting
//
// Nobody waits for a dial of their own: a finished dial and a released
// connection serve the same first-in-first-out queue. A failed dial fails no
// caller whose context lives; dials are repeated with full-jitter backoff, and
// the last error is part of what the callers are told when their context ends.
// Two things end a wait early: an error that no repetition can mend (see
// [health.Permanent]), and, for a caller without a deadline,
// Config.DetectWithin without any live connection.
//
// # Telling the pool the truth
//
// [Conn.Release] says that the connection is fit for the next caller: the
// reply was read to its end and no deadline is left behind. [Conn.Fail] hands
// over the error instead and lets the pool decide by its [health.Class].
// [Pool.Do] does both, and interrupts I/O when the context ends; it is the
// form to prefer. A handle works once: Release or Fail after either of them
// does nothing, also when the connection has long been given to somebody else.
//
// # What it refuses
//
// It never retries a function of yours, it does not wrap connections to give
// their Close another meaning, and it sends nothing to the peer unless Ping
// is set.
package pool
