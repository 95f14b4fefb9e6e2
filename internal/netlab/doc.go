// Package netlab builds small networks out of Linux network namespaces and
// breaks them: a client, a router and one or more servers with real kernels'
// sockets between them, and faults that are put into the path while
// connections are open.
//
//	lab := netlab.New(t)
//	ln := lab.Server.Listen(t, 6379)
//	c, err := lab.Client.Dial(ctx, d.DialContext, lab.Server.Addr(6379))
//	...
//	lab.Drop() // from now on the network is silent
//	lab.Heal()
//
// # The network
//
// Every lab has the same addresses, because labs can't see each other, the
// machine's own network, or anything outside:
//
//	client 10.0.0.2 fd00:0::2 — router — server 0: 10.0.1.2 fd00:1::2
//	                                   — server 1: 10.0.2.2 fd00:2::2 …
//
// The router only forwards, and keeps no state, unless [Config.NAT] is set. What
// [Lab.Loss], [Lab.Rate] and [Lab.Delay] lose, queue and hold back are packets of
// at most 1514 bytes, as on an Ethernet: from the first Loss or Rate on, the
// lab's kernels don't send many segments as one.
//
// Faults are put into the router's forwarding path. They are never put where
// the sender's own kernel would notice (at its output), never disturb address
// resolution, and have taken effect when the call returns.
//
// # Namespaces and goroutines
//
// A socket belongs to the namespace of the thread that makes it, for ever.
// [Host.Do], [Host.Dial] and [Host.Dialer] run a function on the calling
// goroutine, whose thread is in the host's namespace meanwhile; goroutines that
// the function starts are not. So dial addresses, not names (resolvers and
// Happy Eyeballs use goroutines), or put the whole program into a host with
// [Host.Start] or [Host.Helper]. Accepted connections belong to the namespace
// of their listener, wherever Accept runs.
//
// # What it needs and what it leaves
//
// It needs Linux, the right to make network namespaces (root, or CAP_SYS_ADMIN
// and CAP_NET_ADMIN) and the commands ip and nft, and tc for [Lab.Rate].
// Elsewhere [New] skips the test and says why. The namespaces have no names
// and are held by nothing but this process: when it ends, however it ends, the
// kernel removes them and all that is in them; at once, or when it gives up
// sending what a killed process left unsent in a broken network, after two
// minutes at most.
package netlab
