package httpclient

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-go/holdfast/dial"
)

// TransportConfig says what [NewTransport] makes. The zero value is good.
type TransportConfig struct {
	// DetectWithin bounds how long a peer that vanished stays unnoticed, see
	// [dial.Config]. Zero: 10 s. Less than 2 s is an error, as is any with a
	// Dialer.
	DetectWithin time.Duration

	// Dialer opens the connections. Nil: a new one for DetectWithin, whose
	// guard is there while there are connections, and needs no Close.
	Dialer *dial.Dialer

	// Transport is what to start from, for its proxies, TLS settings, limits
	// and the rest; it is cloned, not changed. Nil: http.DefaultTransport as
	// package net/http makes it. DialContext is replaced. Dial, DialTLS or
	// DialTLSContext is an error, since nothing of a Dialer could have an
	// effect beside them: dial TLS by DialContext and TLSClientConfig.
	Transport *http.Transport
}

// What NewTransport sets.
const (
	defaultDetectWithin = 10 * time.Second

	// minPing is how often at most a connection that nothing comes in on is
	// pinged by default.
	minPing = 15 * time.Second

	// stall is how many times DetectWithin a write may wait, as with the user
	// timeout of package dial.
	stall = 3

	transportIdleTime = 55 * time.Second
	transportMaxIdle  = 100

	// Package net/http's default.
	netIdleTime = 90 * time.Second
)

// NewTransport returns a Transport whose connections are dialed by package
// dial, and watched by its guard: those whose peer is silent are ended, so that
// the Transport dials anew, instead of failing request after request for a
// quarter of an hour. It is used like any other, and differs from
// http.DefaultTransport in these fields only:
//
//   - DialContext: the dialer's. (No more is needed for a dead connection to be
//     noticed within DetectWithin.)
//   - HTTP2: pings a connection on which nothing has come in for 15 s, or
//     DetectWithin if that is more (SendPingTimeout), and ends it if there is no
//     answer for as long again (PingTimeout). That is for what the peer's kernel
//     can't tell: a process that hangs, or what is behind a proxy. WriteByteTimeout
//     is three times DetectWithin, and not set if the dialer allows SlowReaders.
//   - IdleConnTimeout: 55 s instead of 90, since many load balancers close after
//     60: AWS's, for one.
//   - MaxIdleConnsPerHost: 100 instead of 2, as many as MaxIdleConns: what more
//     than two requests at a time have opened is kept.
//
// A field of TransportConfig.Transport is left alone if it has a value other
// than zero and net/http's default. HTTP/2 stays on or off as it is there.
//
// Servers don't like pings: one of gRPC answers the third within 5 minutes and
// without a request with GOAWAY, "too_many_pings"; Google's front ends count
// those that net/http sends with each canceled request, too
// (golang.org/issue/76296); nginx minds thousands only: ten times its
// keepalive_requests on an idle connection. Against such, set
// HTTP2.SendPingTimeout to a longer time.
//
// Where a request must not fail because its connection has, use [New]: it
// checks connections before it uses them, and repeats what may be repeated.
func NewTransport(cfg TransportConfig) (*http.Transport, error) {
	t, _, err := newTransport("TransportConfig", cfg)
	return t, err
}

// newTransport also returns the dialer, which the caller closes if cfg has none.
func newTransport(name string, cfg TransportConfig) (*http.Transport, *dial.Dialer, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("httpclient: "+name+"."+format, args...))
	}
	if cfg.Dialer != nil && cfg.DetectWithin != 0 {
		bad("DetectWithin is %v, and Dialer has its own: leave one of them out", cfg.DetectWithin)
	}
	d := cfg.Dialer
	if d == nil {
		var err error
		if d, err = dial.New(dial.Config{DetectWithin: cfg.DetectWithin}); err != nil {
			errs = append(errs, fmt.Errorf("httpclient: %s: %w", name, err))
		}
	}
	if b := cfg.Transport; b != nil {
		for _, field := range [...]string{"Dial", "DialTLS", "DialTLSContext"} {
			if !reflect.ValueOf(b).Elem().FieldByName(field).IsNil() {
				bad("Transport.%s is set, and a Dialer would have no effect beside it: leave it nil, and configure TLS by TLSClientConfig", field)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return apply(base(cfg.Transport), d), d, nil
}

// base returns a Transport of its own to start from.
func base(t *http.Transport) *http.Transport {
	if t == nil {
		t, _ = http.DefaultTransport.(*http.Transport)
	}
	if t == nil { // somebody has replaced it
		return &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          100,
			IdleConnTimeout:       netIdleTime,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	}
	c := t.Clone() // which settles what t does about HTTP/2
	if c.Protocols == nil && c.TLSNextProto == nil && t.TLSNextProto["h2"] != nil {
		c.ForceAttemptHTTP2 = true // or a dialer of one's own would switch it off
	}
	if cfg := c.TLSClientConfig; cfg != nil && !http2On(c) {
		// What was switched off after the first use, or in a clone, would be
		// offered to the server, but not understood (as in net/http).
		cfg.NextProtos = slices.DeleteFunc(slices.Clone(cfg.NextProtos), func(p string) bool { return p == "h2" })
	}
	return c
}

// http2On reports whether t, which has a dialer of its own, speaks HTTP/2 over TLS.
func http2On(t *http.Transport) bool {
	switch {
	case t.Protocols != nil:
		return t.Protocols.HTTP2()
	case t.TLSNextProto != nil:
		return t.TLSNextProto["h2"] != nil
	}
	return t.ForceAttemptHTTP2
}

// apply makes t, which is nobody else's, use d, and sets what is at its default.
func apply(t *http.Transport, d *dial.Dialer) *http.Transport {
	cfg := d.Config()
	t.DialContext = d.DialContext
	h2 := http.HTTP2Config{}
	if t.HTTP2 != nil {
		h2 = *t.HTTP2
	}
	within := max(minPing, cfg.DetectWithin)
	setDefault(&h2.SendPingTimeout, within)
	setDefault(&h2.PingTimeout, within)
	if !cfg.SlowReaders {
		setDefault(&h2.WriteByteTimeout, stall*orDefault(cfg.DetectWithin, defaultDetectWithin))
	}
	t.HTTP2 = &h2
	if t.IdleConnTimeout == 0 || t.IdleConnTimeout == netIdleTime {
		t.IdleConnTimeout = transportIdleTime
	}
	setDefault(&t.MaxIdleConnsPerHost, transportMaxIdle)
	return t
}

func setDefault[V comparable](field *V, value V) {
	var zero V
	if *field == zero {
		*field = value
	}
}

func orDefault[V comparable](value, otherwise V) V {
	setDefault(&value, otherwise)
	return value
}
