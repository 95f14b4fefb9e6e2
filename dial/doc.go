// Package dial opens connections on which a dead peer is noticed in seconds
// instead of a quarter of an hour.
//
//	d, err := dial.New(dial.Config{DetectWithin: 10 * time.Second})
//	c, err := d.DialContext(ctx, "tcp", "redis:6379")
//
// c is a plain *net.TCPConn: no wrapper, so whatever works on a connection of
// package net works on it. [Dialer.DialContext] has the signature that
// http.Transport, pgx, go-redis and most other clients accept as their dial
// function.
//
// # Why
//
// When a host loses power, a cable is cut or a firewall forgets a flow, nobody
// tells the connection. By default, Linux gives up a connection with data in
// flight after about 924 seconds, and an idle one never, or with Go's default
// keep-alive after 150 seconds. Reads without a deadline hang for as long.
//
// # What to set
//
// DetectWithin, and mostly nothing else. From it follow, on Linux:
//
//	DetectWithin          2s   3s   4s   5s   10s   30s   1m    5m
//	keep-alive: idle      1s   1s   1s   2s    4s   12s   24s   2m
//	            interval  1s   1s   1s   1s    2s    6s   12s   1m
//	            count     1    2    3    3     3     3     3    3
//	user timeout          2s   3s   4s   5s   10s   30s   1m    5m
//	fresh for             1s  1.5s  2s  2.5s   5s   15s   30s  2m30s
//	dial timeout          2s   3s   4s   5s   10s   15s   15s   15s
//
// The three keep-alive values and the user timeout are one calculation,
// Idle + Interval·Count = UserTimeout, because Linux ignores the count as soon
// as a user timeout is set: an idle connection then dies at the first probe
// that is due after the user timeout. Other combinations don't do what they
// say; New refuses them and names the right value. Once a guard watches the
// connection, the user timeout is three times as long: a backstop.
//
// [HighlyAvailable], [RarelyUsed] and [DistributedNodes] are configurations for
// three classic situations. Set SlowReaders where a live peer may leave its
// data unread for longer than three times DetectWithin: a user timeout can't
// tell it from a dead one, but the guard can.
//
// # The guard
//
// The dialer has its connections watched by a [health.Guard], whoever uses them:
// one goroutine for all, no wrapper, no byte of theirs. Each dialer makes one of
// its own unless it is given one to share; Unguarded switches it off, and Close
// ends it. On Linux it
//
//   - asks the peer's kernel, by a keep-alive probe that no program sees, when a
//     connection has been silent for longer than FreshFor, and all connections
//     to an address when one of them doesn't answer;
//   - ends a connection whose peer stays silent while a new connection to the
//     same address works, because a router on the way has forgotten it, or the
//     peer was exchanged: within FreshFor and about 3 s, instead of when
//     somebody needs it;
//   - keeps the kernel from giving up connections in a short outage, and ends
//     those at DetectWithin that the kernel would not, as with SlowReaders.
//
// To end means that reads and writes fail at once: with ECONNRESET, or with
// ETIMEDOUT where the guard leaves it to the kernel, but never with an EOF, which
// would make half a reply look whole. [health.Guard.Cause] and [Trace].ConnState
// say why it was.
//
// A connection whose owner has closed it tells the guard nothing. So when a peer
// was restarted, and the first to read its reset is a reader that waits for it
// and closes the connection at once, as that of http.Transport does, the other
// connections to that address may not be asked at once: each ends when its own
// keep-alive or the guard asks, about FreshFor after its peer's last word at the
// latest.
//
// What is sent: an idle connection costs a keep-alive probe and its answer per
// Idle, which makes 60 / 4 s = 15 of each a minute at a DetectWithin of 10 s.
// While they are answered the guard adds nothing, unless FreshFor is shorter
// than Idle: then a probe and its answer per FreshFor, for connections used in
// the last minute. A silent peer is asked a few times, 0.6 s or more apart, and
// its address once by a connection that ends after the first two packets, of
// which its program hears nothing.
//
// # What will happen
//
// A peer that vanishes silently is noticed within DetectWithin, and what the
// guard's last question and its answer take: 0.8 s at most while the connection
// is idle, and up to a second while data is in flight. Without the guard it is
// the kernel that notices: within DetectWithin while the connection is idle, and
// within DetectWithin plus one retransmission while data is in flight, which is
// 0.4 to 0.6 s on a short path, more on a long one, but no more than RTOMax; and
// its timers are coarse and may add up to an eighth. Reads and writes then return
// ETIMEDOUT, or what a router complained about meanwhile: EHOSTUNREACH,
// ENETUNREACH, ECONNREFUSED, with IPv6 EACCES. These are errors of the path, not
// deadlines of yours: errors.Is(err, os.ErrDeadlineExceeded) is false for them.
// Where it was the guard that ended the connection they return ECONNRESET, and
// its Cause tells that from a reset by the peer.
//
// When an outage ends in time, connections with data in flight go on within
// RTOMax, on Linux 6.15 and later a second. Before, they go on when TCP's backoff
// is over, after up to as long again as the outage was.
//
// What no socket option notices is a peer whose process hangs while its kernel
// goes on acknowledging. Give requests a deadline.
//
// # Other systems
//
//	                  idle connection         data in flight
//	Linux             DetectWithin + 0.8 s    DetectWithin + 1 s
//	macOS             DetectWithin            up to twice DetectWithin
//	Windows           DetectWithin            DetectWithin
//	FreeBSD, NetBSD,  DetectWithin            the system's own limit
//	DragonFly
//	Solaris, illumos, DetectWithin, but       the system's own limit
//	AIX               Inspect can't tell
//	OpenBSD           the system's own limit  the system's own limit
//	others            the system's own limit  the system's own limit
//
// The Linux line is the guard's, and the only one that this package's tests
// measure. The others follow from what the systems say about their options:
// TCP_RXT_CONNDROPTIME in the source of Apple's kernel, TCP_MAXRT and TCP_MAXRTMS
// in Microsoft's "IPPROTO_TCP socket options"; on Solaris, illumos, AIX and
// Windows before version 1709 of Windows 10, package net sets keep-alive as well
// as it can.
// Linux's Multipath TCP takes a minute longer, see Config.MultipathTCP. What a
// system or a kernel lacks is skipped, and [Inspect] says so; what it refuses
// fails the dial. The guard reports deaths on other systems, but doesn't see
// silence: it asks nobody there and ends nothing.
package dial
