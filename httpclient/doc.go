// Package httpclient makes net/http notice dead connections, in two steps.
//
// # A Transport
//
//	transport, err := httpclient.NewTransport(httpclient.TransportConfig{})
//	client := &http.Client{Transport: transport}
//
// [NewTransport] returns an ordinary *http.Transport on which a peer that
// vanished is noticed within DetectWithin, idle or busy, whereas by default one
// HTTP/2 connection that a router has forgotten fails every request for a quarter
// of an hour. Connections are ended under the Transport, which then dials anew;
// a request that was on such a connection still fails.
//
// # A Client
//
//	c, err := httpclient.New(httpclient.Config{})
//	defer c.Close(ctx)
//	client := c.HTTPClient()
//
// A [Client] is a RoundTripper with a [pool.Pool] of connections for each host.
// It does more, and costs no more:
//
//   - A connection is looked at before it is used, and its peer's kernel is asked
//     if nobody was heard for FreshFor: a request is not sent on a dead one. (A
//     request that begins within FreshFor of a silent loss may still be lost.)
//   - The limits that net/http lacks: a maximum age with jitter, a maximum number
//     of requests, an idle limit learnt from the server's Keep-Alive header, a
//     bounded queue, warm spares, the addresses of the name as they are now. A
//     busy connection is retired between two requests, or when its last stream
//     has ended, and no request fails for it.
//   - HTTP/2 is multiplexed as by net/http: requests share a connection up to the
//     server's limit of streams, and a second one is opened only for those that
//     don't fit.
//   - What failed with its connection is repeated where HTTP allows that, see
//     [Config].MaxAttempts. Nothing is ever executed twice that may not be.
//   - [Client.Stat] and [Trace] tell, per host, what is open and why it was
//     closed.
//
// Both have the peer's next hop in view, which may be a proxy: what is behind it
// is out of sight. And neither helps against a server that has accepted a request
// and never answers: give requests a deadline.
//
// # What differs from http.Transport
//
// While a host can't be reached a Client's requests wait until their context
// ends, or for DetectWithin without a deadline, while dialing is repeated with
// backoff: a server that restarts costs a delay and no error. Config.FailFast
// has them fail with the first failed dial instead, as a Transport does.
//
// Connections are opened for the host, not for a request: of net/http/httptrace's
// hooks those of the dial (DNS, connect, TLS) are not called; [dial.Trace] tells
// of these. GetConn and GotConn are, with the connection below TLS in the latter.
//
// Requests that ask for a WebSocket, have a scheme other than http and https, or
// a host name that isn't ASCII go to a Transport as NewTransport makes it: a
// Client's limits, Stat and Trace don't cover these. For Unix sockets set
// DialContext of what NewTransport returns; a Client has no way to dial them.
package httpclient
