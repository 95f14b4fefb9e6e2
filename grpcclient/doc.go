// Package grpcclient makes grpc-go notice dead connections, without being banned
// for it.
//
// # Dial options
//
//	opts, err := grpcclient.DialOptions(grpcclient.Config{DetectWithin: 10 * time.Second})
//	cc, err := grpc.NewClient("dns:///api.internal:443", append(opts, grpc.WithTransportCredentials(creds))...)
//
// By default a gRPC connection that a router has forgotten fails every call for a
// quarter of an hour, while the server is one new connection away: calls that
// give up after 5 s leave the connection in place. With [DialOptions]
//
//   - a silent peer is noticed within DetectWithin, idle or not, by the kernel's
//     means: no HTTP/2 pings beyond what every grpc-go server tolerates, so none
//     that it would answer with GOAWAY too_many_pings;
//   - a connection whose flow is lost is ended in the background, mostly before
//     the next call, and that call runs on a new one;
//   - after an outage calls succeed within a second, not after a backoff of up to
//     two minutes: a lost SYN is followed by a fresh one half a second later, and
//     a failed connection is tried again after half a second at most;
//   - the name of a dns target is looked up again when a connection is lost, and
//     while no address answers after 1, 2, 4 seconds and so on up to DetectWithin,
//     instead of after 30 s: a server that has moved is found soon after its record
//     has changed. A lookup that fails is repeated within a second, in its first
//     minute, and not after up to two. Names that end with a dot spare the DNS
//     server the questions of the search list.
//
// Names are resolved as by grpc.NewClient: dns:///, passthrough:///, unix: and
// unix-abstract: targets, those of your own resolvers, and HTTPS_PROXY and
// NO_PROXY work, see [Config].Proxy. Service config, interceptors, retries,
// credentials and WaitForReady are untouched. An option given after these takes
// the place of theirs, so don't give another WithContextDialer; WithKeepaliveParams
// would change the connections' user timeout to its Timeout. Resolvers are the
// exception: of two for one scheme gRPC takes the first, so a WithResolvers of your
// own for dns must be given before these, or the resolver be registered. NewPool
// puts its own behind yours.
//
// # A pool
//
//	p, err := grpcclient.NewPool("dns:///api.internal:443", 4, grpcclient.PoolConfig{}, grpc.WithTransportCredentials(creds))
//	defer p.Close(ctx)
//	client := pb.NewGreeterClient(p)
//
// A [Pool] is for who meets the server's limit of concurrent streams, or the
// throughput of one connection. It has the methods that generated code wants
// ([grpc.ClientConnInterface]), and gives each call to the connection that has
// the fewest in flight, among those that are connected, with all the multiplexing
// there is. Its connections have a maximum age, at which a new one takes over before
// the old one is closed, which waits for the last of its streams, or for
// PoolConfig.MaxConnDrain. A connection whose peer is silent gets no call while there
// is another, or one can be opened.
//
// # What it can't do
//
// The kernel's answers prove the peer's kernel, which may be a proxy's: what is
// behind it is out of sight. A process that hangs, and whose kernel answers, is
// found by HTTP/2 pings only, after more than five minutes and while calls are in
// flight, see Config.ServerMinPing. Give calls a deadline. A call that was in
// flight on a connection that died fails with codes.Unavailable, unless gRPC knows
// that the server hasn't seen it; a service config's retryPolicy may repeat it.
// While nothing is connected calls fail at once, unless they wait for ready. A
// lookup takes as long as the system's resolver takes, several seconds where
// packets to the DNS server are lost, and so may closing a ClientConn meanwhile.
package grpcclient
