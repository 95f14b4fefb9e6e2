package grpcclient

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/dns"
)

// dnsBuilder builds the resolvers of dns targets: gRPC's, for one lookup each, or
// none behind a proxy, which looks the name up itself.
type dnsBuilder struct {
	proxy   func(*http.Request) (*url.URL, error)
	longest time.Duration // the pause between two lookups
}

func (*dnsBuilder) Scheme() string { return "dns" }

func (b *dnsBuilder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	inner := resolver.Get("dns")
	if e := target.Endpoint(); e == "" || strings.HasSuffix(e, ":") {
		return inner.Build(target, cc, opts) // which says what is wrong
	}
	address := withPort(target.Endpoint())
	proxy, err := proxyOf(b.proxy, address)
	if err != nil {
		return nil, err
	}
	r := route{proxy: proxy}
	if proxy != nil {
		addrs := r.mark([]resolver.Address{{Addr: address}})
		err = cc.UpdateState(resolver.State{Addresses: addrs, Endpoints: []resolver.Endpoint{{Addresses: addrs}}})
		return settled{}, err
	}
	if isAddress(address) || !isGRPCs(inner) {
		return inner.Build(target, routed{cc, r}, opts)
	}
	l := &lookups{longest: b.longest, build: func(cc resolver.ClientConn) (resolver.Resolver, error) {
		return inner.Build(target, cc, opts)
	}}
	r.name = l
	l.cc = routed{cc, r}
	if err := l.begin(); err != nil {
		return nil, err
	}
	return l, nil
}

func isAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil
}

// isGRPCs is whether a builder is the one that gRPC brings, and not one that a
// program has registered in its place, of which nobody knows how it works.
func isGRPCs(b resolver.Builder) bool {
	//lint:ignore SA1019 nothing else tells
	return reflect.TypeOf(b) == reflect.TypeOf(dns.NewBuilder())
}

// routeKey is the key of an address's route, which gRPC hands on to the dialer.
type routeKey struct{}

func (routeKey) String() string { return "grpcclient's route" }

// route is what the dialer is to know of an address. It is comparable, as gRPC
// demands of attributes.
type route struct {
	proxy *url.URL // the way to it; nil: a direct one
	name  *lookups // the name that it was found for; nil: none
}

// String is for gRPC's log, where addresses are named with their attributes.
func (r route) String() string {
	if r.proxy == nil {
		return "direct"
	}
	return "by the proxy " + r.proxy.Host
}

func routeOf(ctx context.Context) (r route, ok bool) {
	r, ok = credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(routeKey{}).(route)
	return r, ok
}

// settled is a resolver with nothing to do any more.
type settled struct{}

func (settled) ResolveNow(resolver.ResolveNowOptions) {}
func (settled) Close()                                {}

// routed marks the addresses that a resolver finds with a route.
type routed struct {
	resolver.ClientConn
	route route
}

func (c routed) UpdateState(s resolver.State) error {
	s.Addresses = c.route.mark(s.Addresses)
	s.Endpoints = slices.Clone(s.Endpoints) // nil stays nil, which to gRPC is not the same as none
	for i := range s.Endpoints {
		s.Endpoints[i].Addresses = c.route.mark(s.Endpoints[i].Addresses)
	}
	return c.ClientConn.UpdateState(s)
}

func (r route) mark(addrs []resolver.Address) []resolver.Address {
	marked := make([]resolver.Address, len(addrs))
	for i, a := range addrs {
		a.Attributes = a.Attributes.WithValue(routeKey{}, r)
		marked[i] = a
	}
	return marked
}
