// Package health says what an error means for a connection, finds connections
// that died, and asks peers whether they live.
//
//   - [Classify] sorts errors by whose fault they are, [SafeToRetry] says
//     whether the peer can have acted on what was sent, and [Permanent] whether
//     opening a connection again can help. None of them needs a driver.
//   - A [Guard] watches connections for death: one goroutine for all of them,
//     told by the kernel, without touching their data. A [Watch] is its view of
//     one connection; [Watch.Sniff] asks the kernel right now.
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
// Nothing here sees a peer that has become silent: that takes keep-alive and a
// user timeout, which package dial sets, after which the kernel's verdict is an
// event like any other; or a Probe.
package health
