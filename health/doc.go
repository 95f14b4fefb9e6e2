// Package health says what an error means for a connection, finds connections
// that died, and asks peers whether they live.
//
//   - [Classify] sorts errors by whose fault they are, [SafeToRetry] says
//     whether the peer can have acted on what was sent, and [Permanent] whether
//     opening a connection again can help. None of them needs a driver.
//   - A [Guard] watches connections for death, and, under a [Policy], for the
//     silence before it: one goroutine for all of them, told by the kernel,
//     without touching their data. It asks peers by keep-alive probes, whatever
//     protocol is spoken above, and ends what is lost, whoever owns it. A
//     [Watch] is its view of one connection; [Watch.Sniff] asks the kernel right
//     now, and [Guard.Check] the peers' kernels.
//   - A [Probe] asks the peer: [RedisPing] in Redis' own protocol. [TCP] asks
//     only the local kernel.
//
// # What works where
//
// Errors are classified by each operating system's own numbers. On Linux a
// Guard is told of a death by an event; on other systems, and where Linux
// denies it, it looks at every connection once in a while, see
// [GuardConfig.PollInterval]. On macOS and the BSDs a FIN that came behind bytes
// can't be seen before somebody has read these, and nowhere but on Linux is more
// known of a failed connection than that it failed: the errno is its owner's to
// read, see [Watch.Cause]. Where there are no sockets to ask (Plan 9,
// WebAssembly), [Guard.Watch] says so with an error for which
// errors.Is(err, errors.ErrUnsupported) holds.
//
// A [Policy] needs Linux 4.6, and 6.15 to see within DetectWithin that a peer
// behind a closed window has died: older kernels ask such peers ever more seldom.
// Elsewhere nothing here sees a peer that has become silent: that takes
// keep-alive and a user timeout, which package dial sets, after which the
// kernel's verdict is an event like any other; or a Probe.
//
// # What it costs on the wire
//
// An idle connection that was used within the last minute is asked once in
// FreshFor, another one once in half of DetectWithin, unless the pool that owns
// it asks before it uses it: two packets each time, of 52 bytes each on IPv4.
// Keep-alive that is more frequent, as package dial sets it (after 0.4 of
// DetectWithin), leaves nothing to ask; the sum is then 2·60 s/idle packets per
// connection and minute, 30 with a DetectWithin of 10 s. A connection in use
// costs nothing. A suspect is asked every 600 ms at first, and once a second in
// a long outage, or once in a fiftieth of DetectWithin if that is more; its
// address gets one new connection a second at most.
package health
