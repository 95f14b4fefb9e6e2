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
//	dial timeout          2s   3s   4s   5s   10s   15s   15s   15s
//
// The three keep-alive values and the user timeout are one calculation,
// Idle + Interval·Count = UserTimeout, because Linux ignores the count as soon
// as a user timeout is set: an idle connection then dies at the first probe
// that is due after the user timeout. Other combinations don't do what they
// say; New refuses them and names the right value.
//
// [HighlyAvailable], [RarelyUsed] and [DistributedNodes] are configurations for
// three classic situations. Set SlowReaders where a live peer may leave its
// data unread for longer than DetectWithin: a user timeout can't tell it from a
// dead one.
//
// # What will happen
//
// A peer that vanishes silently is noticed within DetectWithin while the
// connection is idle, and within DetectWithin plus one retransmission while
// data is in flight: 0.4 to 0.6 s on a short path, more on a long one. Linux's
// timers are coarse and may add up to an eighth to all of these. Reads and
// writes then return ETIMEDOUT, or what a router complained about meanwhile:
// EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, with IPv6 EACCES. These are errors
// of the path, not deadlines of yours: errors.Is(err, os.ErrDeadlineExceeded)
// is false for them.
//
// What no socket option notices is a peer whose process hangs while its kernel
// goes on acknowledging. Give requests a deadline.
//
// # Other systems
//
//	                  idle connection         data in flight
//	Linux             DetectWithin            DetectWithin + a retransmission
//	macOS             DetectWithin            up to twice DetectWithin
//	Windows           DetectWithin            DetectWithin
//	FreeBSD, NetBSD,  DetectWithin            the system's own limit
//	DragonFly
//	Solaris, illumos, DetectWithin, but       the system's own limit
//	AIX               Inspect can't tell
//	OpenBSD           the system's own limit  the system's own limit
//	others            the system's own limit  the system's own limit
//
// Only the Linux line is measured by this package's tests. The others follow
// from what the systems say about their options: TCP_RXT_CONNDROPTIME in the
// source of Apple's kernel, TCP_MAXRT and TCP_MAXRTMS in Microsoft's
// "IPPROTO_TCP socket options"; on Solaris, illumos, AIX and Windows before
// version 1709 of Windows 10, package net sets keep-alive as well as it can.
// Linux's Multipath TCP takes a minute longer, see Config.MultipathTCP. What a
// system or a kernel lacks is skipped, and [Inspect] says so; what it refuses
// fails the dial.
package dial
