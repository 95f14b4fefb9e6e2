package grpcclient

import (
	"encoding/json"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// DialOptions returns what grpc.NewClient needs so that a dead peer is noticed.
// The options may be used for any number of clients, which then share a guard.
// Credentials are yours to add.
//
// The error is about cfg. No I/O is done and nothing started.
func DialOptions(cfg Config) ([]grpc.DialOption, error) {
	cfg, _, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	return append(cfg.options(nil), cfg.resolver()), nil
}

// options returns the options of a complete Config but for the resolver. If opened
// isn't nil it is told of each connection, before gRPC has it.
func (cfg *Config) options(opened func(net.Conn)) []grpc.DialOption {
	c := &connector{connect: cfg.Dialer.DialContext, proxy: cfg.Proxy, opened: opened}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(c.dial),
		grpc.WithConnectParams(cfg.connectParams()),
	}
	if p, ok := cfg.keepalive(); ok {
		opts = append(opts, grpc.WithKeepaliveParams(p))
	}
	if cfg.HealthCheck {
		opts = append(opts, grpc.WithDefaultServiceConfig(healthConfig(cfg.HealthService)))
	}
	return opts
}

// resolver is apart from the others since gRPC takes the first of two.
func (cfg *Config) resolver() grpc.DialOption {
	return grpc.WithResolvers(&dnsBuilder{proxy: cfg.Proxy, longest: min(cfg.Dialer.Config().DetectWithin, maxLookupPause)})
}

// connectParams is when gRPC tries again, and for how long.
func (cfg *Config) connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff: backoff.Config{
			BaseDelay:  min(firstBackoff, cfg.MaxBackoff),
			Multiplier: 1.6,
			Jitter:     0.2,
			MaxDelay:   cfg.MaxBackoff,
		},
		MinConnectTimeout: cfg.Dialer.Config().Timeout,
	}
}

// keepalive returns gRPC's parameters, and false if there must be none.
//
// Where there are any, gRPC sets TCP_USER_TIMEOUT to their Timeout on a connection
// that it gets from a dialer, after the dialer has set its own: so it must be the
// same.
func (cfg *Config) keepalive() (keepalive.ClientParameters, bool) {
	timeout := cfg.Dialer.UserTimeout()
	if cfg.ServerMinPing < 0 || timeout <= 0 {
		return keepalive.ClientParameters{}, false
	}
	every := max(cfg.ServerMinPing+cfg.ServerMinPing/10, grpcMinPing)
	if every < cfg.ServerMinPing {
		every = math.MaxInt64 // gRPC's for never
	}
	return keepalive.ClientParameters{
		Time:                every,
		Timeout:             timeout,
		PermitWithoutStream: cfg.PingIdle,
	}, true
}

func healthConfig(service string) string {
	type health struct {
		ServiceName string `json:"serviceName"`
	}
	type serviceConfig struct {
		Policies []map[string]struct{} `json:"loadBalancingConfig"`
		Health   health                `json:"healthCheckConfig"`
	}
	b, err := json.Marshal(serviceConfig{[]map[string]struct{}{{"round_robin": {}}}, health{service}})
	if err != nil {
		panic(err) // a string and constants
	}
	return string(b)
}
