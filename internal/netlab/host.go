package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// DialFunc is the shape of net.Dialer's DialContext.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// Host is one computer of a lab: a network namespace with its own addresses,
// routes, ports and sockets.
type Host struct {
	lab  *Lab
	name string
	num  int    // which network it is in
	dev  string // the router's end of its cable; empty for the router itself

	path  path   // guarded by lab.mu
	cable *cable // guarded by lab.mu; nil if the kernel's own device is in place

	mu        sync.Mutex
	ns        *namespace // nil before the lab is built and after it is closed
	listeners map[*listener]struct{}
	processes map[*Process]struct{}
}

func newHost(lab *Lab, name string, num int) *Host {
	return &Host{lab: lab, name: name, num: num, dev: "r" + strconv.Itoa(num)}
}

// Name is "client", "router", "server0", "server1" …
func (h *Host) Name() string { return h.name }

// IPv4 returns the host's IPv4 address; for the router, its end of the
// client's cable.
func (h *Host) IPv4() netip.Addr { return addr4(h.num, h.last()) }

// IPv6 returns the host's IPv6 address; for the router, its end of the
// client's cable.
func (h *Host) IPv6() netip.Addr { return addr6(h.num, h.last()) }

func (h *Host) last() byte {
	if h.dev == "" {
		return 1
	}
	return 2
}

// Addr returns "address:port" with the host's IPv4 address.
func (h *Host) Addr(port int) string {
	return net.JoinHostPort(h.IPv4().String(), strconv.Itoa(port))
}

// Addr6 returns "[address]:port" with the host's IPv6 address.
func (h *Host) Addr6(port int) string {
	return net.JoinHostPort(h.IPv6().String(), strconv.Itoa(port))
}

// Do calls f on the calling goroutine while its thread is in the host's
// namespace, and returns its error. Sockets that f makes belong to the host,
// and so do processes that it starts (but see [Host.Start]); goroutines that f
// starts run outside. /proc/thread-self/net and /proc/sys/net show the host's.
// It may be nested, and f may panic or end the test.
func (h *Host) Do(f func() error) error {
	ns, err := h.namespace()
	if err != nil {
		return err
	}
	return ns.do(f)
}

func (n *namespace) do(f func() error) error {
	leave, err := n.visit()
	if err != nil {
		return err
	}
	defer leave()
	return f()
}

// Enter is Do for what begins in one function and ends in another, as between
// two hooks: the calling goroutine's thread is in the host's namespace until the
// same goroutine calls leave.
func (h *Host) Enter() (leave func(), err error) {
	ns, err := h.namespace()
	if err != nil {
		return nil, err
	}
	return ns.visit()
}

// Dial connects from the host to a TCP address with the given dial function;
// nil means a plain net.Dialer's. It is [Host.Do] around the call, with the
// same limit: what dial does in goroutines of its own happens outside. The
// connection may be used from any goroutine.
func (h *Host) Dial(ctx context.Context, dial DialFunc, address string) (net.Conn, error) {
	return h.Dialer(dial)(ctx, "tcp", address)
}

// Dialer returns dial confined to the host, for use as a pool's or a
// transport's dial function; nil means a plain net.Dialer's. Every dial that is
// waiting holds an operating system thread.
func (h *Host) Dialer(dial DialFunc) DialFunc {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = h.Do(func() (err error) {
			c, err = dial(ctx, network, address)
			return err
		})
		if err != nil {
			return nil, err // also when a dial function returns a typed nil
		}
		return c, nil
	}
}

func (h *Host) namespace() (*namespace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return nil, fmt.Errorf("netlab: %s: %w", h.name, errClosed)
	}
	return h.ns, nil
}

var errClosed = errors.New("the lab is closed")

// swap installs ns and returns what was there.
func (h *Host) swap(ns *namespace) *namespace {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.ns
	h.ns = ns
	return old
}

// clear ends everything that runs on the host for the lab.
func (h *Host) clear() {
	h.mu.Lock()
	listeners, processes := h.listeners, h.processes
	h.listeners, h.processes = nil, nil
	h.mu.Unlock()
	for ln := range listeners {
		ln.abort()
	}
	for p := range processes {
		p.Kill()
	}
}
