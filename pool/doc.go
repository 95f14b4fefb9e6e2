// Package pool keeps connections of any type, never hands out one that the
// kernel knows to be dead, and asks first where nobody knows.
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
//	          │ ▲                 └──Fail with an I/O error, lifetime, Reset──▶ closed
//	          │ └─────an answer─────┐
//	          ├──a question left──▶ suspect ──DetectWithin, a caller needs the slot──▶ closed
//	          │  unanswered            └──event, idle limit, lifetime, Reset──▶ closed
//	          └──event, peek, ping, idle limit, lifetime, Reset──▶ closed
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
// # Silence
//
// The kernel learns of many deaths late or never: a peer that lost its power, a
// NAT gateway or firewall that has forgotten the flow, a path that drops
// everything. So the pool's guard ([health.Guard]) keeps an eye on all
// connections, on Linux, and a checkout looks at when the peer of a connection
// was last heard. If that is longer ago than Config.FreshFor the peer's kernel is
// asked, together with those of all idle connections in the same position: one
// round trip, any protocol, TLS too, and nothing that the peer's application
// sees. When a connection dies by silence, or a use of it ends with an error that
// may be about the path, its siblings to the same address are asked as well.
//
// Who doesn't answer is a suspect: it is passed over, but not closed, because
// most silences end. When its peer answers, it serves the first caller in the
// queue, or is idle again. Otherwise the guard ends it: soon if new
// connections to the same address work, else after DetectWithin. Where callers
// wait at the limit, the longest silent suspect yields its slot for a new
// connection; the others follow only when one could be opened, so that while
// nothing works one connection is given up, and none if nobody needs it.
//
// A holder whose connection the guard ends reads ECONNRESET, never a forged end
// of the data. [Pool.Do] joins the reason to f's error.
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
// Config.DetectWithin without any live connection but suspects.
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
// their Close another meaning, and no byte reaches the peer's application
// unless Ping is set.
package pool
