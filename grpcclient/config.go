package grpcclient

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/holdfast-go/holdfast/dial"
)

// Config says how connections are opened and how fast a dead peer is noticed on
// them. The zero value is good.
type Config struct {
	// DetectWithin bounds how long a peer that vanished stays unnoticed. Zero:
	// 10 s, or what the Dialer says. Less than 2 s is an error, as is any with a
	// Dialer.
	DetectWithin time.Duration

	// Dialer opens the connections, and its guard watches them. Nil: one is made,
	// whose guard has a goroutine while there are connections, and shortly
	// afterwards. One that is given needs DetectWithin, and is the caller's to
	// close, after the connections, which ends that goroutine at once. Its Timeout
	// bounds each attempt to connect, with all the handshakes. Its Trace is told of
	// each SYN as of a dial of its own: of those that were sent beside one that is
	// unanswered, all but one end with context.Canceled.
	Dialer *dial.Dialer

	// ServerMinPing is how often the server allows HTTP/2 pings: the MinTime of
	// its keepalive.EnforcementPolicy. Pings are sent a tenth less often than
	// that, or every 10 s, gRPC's own minimum, while calls are in flight and
	// nothing is received. They find what the kernel can't: a process that
	// hangs, within the pause between two pings and the user timeout of the
	// Dialer's connections ([dial.Dialer.UserTimeout]), which is three times
	// DetectWithin unless it was given. gRPC sets that one, too, where the
	// Dialer's Control has set another.
	//
	// Zero: 5 min, which is what a grpc-go server allows that wasn't told
	// otherwise. Less than 1 s is an error. Negative: there are none, nor are
	// there any where the Dialer sets no user timeout (SlowReaders): gRPC would
	// set one.
	ServerMinPing time.Duration

	// PingIdle has pings sent without calls in flight, too. The server's
	// EnforcementPolicy must permit that (PermitWithoutStream), or it ends the
	// connection with GOAWAY too_many_pings. It is an error without
	// ServerMinPing.
	PingIdle bool

	// MaxBackoff bounds the pause between two attempts to connect to an address:
	// the first is 100 ms, or MaxBackoff if that is less, each one after it 1.6
	// times as long, all but the first up to a fifth more or less at random. So a
	// server that is back is found within that and a round trip, or three with
	// TLS, and one that refuses, or accepts and closes, is asked about twice a
	// second. It takes the place of gRPC's 120 s; raise it where thousands of
	// clients meet a server that is busy with handshakes, as attempts at an
	// address that is silent cost it nothing, and at one that refuses, a packet.
	// Zero: 500 ms. Less than 10 ms is an error.
	//
	// A server that begins to speak HTTP/2 and then ends the connection counts as
	// a success to gRPC, which connects again at once, whatever MaxBackoff is.
	MaxBackoff time.Duration

	// Proxy returns the HTTP proxy through which to reach an address, by CONNECT,
	// or nil. It is called with a request for https://address, by many at once. Nil:
	// http.ProxyFromEnvironment, as gRPC does, thus HTTPS_PROXY and NO_PROXY. As
	// gRPC ignores its own WithNoProxy and WithLocalDNSResolution beside a
	// dialer, return nil, nil to have no proxies.
	//
	// For dns targets the address is the target's name and port: it is the proxy
	// that looks the name up. For others it is what their resolver has found, so
	// that NO_PROXY must name that. Unix sockets have no proxy. As in gRPC, only
	// the URL's host and user count: the proxy itself is spoken to without TLS.
	Proxy func(*http.Request) (*url.URL, error)

	// HealthCheck has each connection's server asked by the protocol
	// grpc.health.v1 whether HealthService serves: it gets calls only while it
	// says so, or doesn't know the protocol. That takes a load balancing policy
	// that heeds it, which gRPC's default, pick_first, does not: with HealthCheck
	// the default service config has round_robin, which connects to all of the
	// target's addresses. A service config from the resolver, or a later
	// WithDefaultServiceConfig, takes the place of this one.
	HealthCheck bool

	// HealthService is the name of the service to ask for. Empty: the server as a
	// whole. It is an error without HealthCheck.
	HealthService string
}

const (
	minDetectWithin   = 2 * time.Second // dial's
	defaultMinPing    = 5 * time.Minute // grpc-go's EnforcementPolicy.MinTime
	shortestMinPing   = time.Second
	grpcMinPing       = 10 * time.Second // what grpc-go raises shorter times to
	firstBackoff      = 100 * time.Millisecond
	defaultMaxBackoff = 500 * time.Millisecond
	minMaxBackoff     = 10 * time.Millisecond
)

// check returns all that is wrong with cfg but for what dial.New finds.
func (cfg *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("grpcclient: Config."+format, args...))
	}
	if d := cfg.Dialer; d != nil {
		if cfg.DetectWithin != 0 {
			bad("DetectWithin is %v beside a Dialer, which has its own: set one of them", cfg.DetectWithin)
		}
		if d.Config().DetectWithin < minDetectWithin {
			bad("Dialer has no DetectWithin, so that nothing notices a silent peer: give one with keep-alive and without Multipath TCP")
		}
	} else if cfg.DetectWithin != 0 && cfg.DetectWithin < minDetectWithin {
		bad("DetectWithin is %v: use %v or more, or zero for 10 s", cfg.DetectWithin, minDetectWithin)
	}
	if p := cfg.ServerMinPing; p > 0 && p < shortestMinPing {
		bad("ServerMinPing is %v: use what the server's EnforcementPolicy.MinTime is, %v or more, zero for %v, or a negative value for no pings", p, shortestMinPing, defaultMinPing)
	}
	if cfg.PingIdle && cfg.ServerMinPing <= 0 {
		bad("PingIdle is set but ServerMinPing isn't: say how often the server permits pings, or drop PingIdle")
	}
	if b := cfg.MaxBackoff; b != 0 && b < minMaxBackoff {
		bad("MaxBackoff is %v: use %v or more, or zero for %v", b, minMaxBackoff, defaultMaxBackoff)
	}
	if cfg.HealthService != "" && !cfg.HealthCheck {
		bad("HealthService is %q but HealthCheck is off: set it, or drop the name", cfg.HealthService)
	}
	return errors.Join(errs...)
}

// complete checks cfg and returns it with its defaults and a dialer, which it has
// made if made says so.
func (cfg Config) complete() (_ Config, made bool, err error) {
	if err := cfg.check(); err != nil {
		return cfg, false, err
	}
	if cfg.ServerMinPing == 0 {
		cfg.ServerMinPing = defaultMinPing
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = defaultMaxBackoff
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if made = cfg.Dialer == nil; made {
		if cfg.Dialer, err = dial.New(dial.Config{DetectWithin: cfg.DetectWithin}); err != nil {
			return cfg, false, err
		}
	}
	return cfg, made, nil
}
