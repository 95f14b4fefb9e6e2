package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// TB is the part of testing.TB that labs use.
type TB interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Config describes a lab. Its zero value is a client, a stateless router and
// one server.
type Config struct {
	// Servers is the number of servers. Zero: 1. At most 100; negative is an
	// error.
	Servers int

	// NAT puts the client behind a router that hides its address
	// (masquerading), keeps state per flow, and silently drops segments of TCP
	// flows that it has no state for, as the gateways of cloud providers and
	// most stateful firewalls do.
	NAT bool

	// NATTimeout is how long the router remembers an established TCP flow on
	// which nothing moves; rounded up to whole seconds. Zero: the kernel's 5
	// days. Needs NAT; negative is an error.
	NATTimeout time.Duration

	// Fail is told when a fault can't be put in place or a host's sockets
	// can't be read: the machine lacks something, or the lab is closed. Nil:
	// panic. New and NewWith set it to t.Fatalf.
	Fail func(error)
}

func (c Config) validate() error {
	var errs []error
	if c.Servers < 0 || c.Servers > maxServers {
		errs = append(errs, fmt.Errorf("netlab: Config.Servers is %d; it must be 1 to %d, or 0 for 1", c.Servers, maxServers))
	}
	if c.NATTimeout < 0 {
		errs = append(errs, fmt.Errorf("netlab: Config.NATTimeout is %v; it can't be negative", c.NATTimeout))
	}
	if c.NATTimeout > 0 && !c.NAT {
		errs = append(errs, errors.New("netlab: Config.NATTimeout is set but Config.NAT isn't; set NAT too"))
	}
	return errors.Join(errs...)
}

const maxServers = 100

// Lab is a network of namespaces: Client, a router, Servers.
//
// Its methods, and those of its hosts, may be called concurrently; methods
// that end a test on failure belong to the test's goroutine.
type Lab struct {
	Client  *Host
	Server  *Host   // the first of Servers
	Servers []*Host // as many as Config.Servers

	// Router forwards between the others. It has no address of its own worth
	// connecting to, and no path of its own that faults could be put into.
	Router *Host

	cfg   Config
	tools tools

	mu       sync.Mutex // guards the router's configuration and what follows
	tracking bool       // the router keeps state per flow
	single   bool       // segmentation offload is off
}

// New makes a lab with one client, one router and one server, and removes it
// when the test ends. It skips the test where labs can't be had.
func New(t TB) *Lab {
	t.Helper()
	return NewWith(t, Config{})
}

// NewWith is New with a configuration.
func NewWith(t TB, cfg Config) *Lab {
	t.Helper()
	if cfg.Fail == nil {
		cfg.Fail = func(err error) { t.Helper(); t.Fatalf("%v", err) }
	}
	lab, err := Start(cfg)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("%v", err)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(lab.Close)
	return lab
}

// Start makes a lab outside of a test. The error wraps errors.ErrUnsupported,
// and names the reason, if this machine or user can't have labs. The caller
// must Close the lab.
func Start(cfg Config) (*Lab, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Servers == 0 {
		cfg.Servers = 1
	}
	if cfg.Fail == nil {
		cfg.Fail = func(err error) { panic(err) }
	}
	tools, err := findTools()
	if err != nil {
		return nil, err
	}
	lab := &Lab{cfg: cfg, tools: tools}
	lab.Router = &Host{lab: lab, name: "router"}
	lab.Client = newHost(lab, "client", 0)
	for i := range cfg.Servers {
		lab.Servers = append(lab.Servers, newHost(lab, fmt.Sprintf("server%d", i), i+1))
	}
	lab.Server = lab.Servers[0]
	if err := lab.build(); err != nil {
		lab.Close()
		return nil, err
	}
	return lab, nil
}

// Close kills the lab's processes, closes its listeners and the connections
// that they accepted, and gives the namespaces back. A second Close does
// nothing.
func (l *Lab) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts() {
		if h.cable != nil {
			h.cable.close()
			h.cable = nil
		}
		h.clear()
		// A namespace lives as long as a socket in it, and what was closed in a
		// broken network is retransmitted for minutes otherwise.
		_ = h.sysctl([]setting{{path: "ipv4/tcp_orphan_retries", value: "1"}})
		if ns := h.swap(nil); ns != nil {
			ns.close()
		}
	}
}

// ends are the hosts at the ends of the paths: all but the router.
func (l *Lab) ends() []*Host {
	return append([]*Host{l.Client}, l.Servers...)
}

func (l *Lab) hosts() []*Host {
	return append(l.ends(), l.Router)
}

func (l *Lab) fail(err error) {
	if err != nil {
		l.cfg.Fail(err)
	}
}

// addr4 and addr6 are the n'th address in the k'th host's network.
func addr4(k int, n byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(k), n})
}

func addr6(k int, n byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(k), 15: n})
}
