package httpclient

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/dial"
)

// fields returns the names of a struct's exported fields.
func fields[T any]() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.IsExported() {
			names = append(names, f.Name)
		}
	}
	return names
}

// same compares two values of a field: functions by what they are, and TLS
// configurations and maps of functions by what is in them.
func same(a, b any) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	switch {
	case va.Kind() == reflect.Func:
		return va.Pointer() == vb.Pointer()
	case va.Kind() == reflect.Map:
		return slices.Equal(slices.Sorted(keys(va)), slices.Sorted(keys(vb)))
	}
	switch a := a.(type) {
	case *tls.Config:
		return sameTLS(a, b.(*tls.Config))
	case *http.HTTP2Config:
		b := b.(*http.HTTP2Config)
		return a == b || a != nil && b != nil && sameFields(a, b)
	}
	return reflect.DeepEqual(a, b)
}

func keys(m reflect.Value) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, k := range m.MapKeys() {
			if !yield(k.String()) {
				return
			}
		}
	}
}

// sameTLS takes no configuration for an empty one with the protocols that HTTP/2
// needs, which package net/http makes of it.
func sameTLS(a, b *tls.Config) bool {
	fill := func(c *tls.Config) *tls.Config {
		if c == nil {
			c = &tls.Config{}
		}
		c = c.Clone()
		if len(c.NextProtos) == 0 {
			c.NextProtos = []string{"h2", "http/1.1"}
		}
		return c
	}
	return sameFields(fill(a), fill(b))
}

func sameFields[T any](a, b *T) bool {
	for _, name := range fields[T]() {
		if !same(field(a, name), field(b, name)) {
			return false
		}
	}
	return true
}

func field(of any, name string) any { return reflect.ValueOf(of).Elem().FieldByName(name).Interface() }

func TestATransportDiffersFromTheDefaultInFourFieldsOnly(t *testing.T) {
	standard := http.DefaultTransport.(*http.Transport)
	ours, err := NewTransport(TransportConfig{})
	require.NoError(t, err)
	for _, transport := range []*http.Transport{standard, ours} {
		transport.CloseIdleConnections() // has it settle what it does about HTTP/2
	}
	changed := map[string]func(*testing.T){
		"DialContext":         func(t *testing.T) { assert.NotNil(t, ours.DialContext) },
		"IdleConnTimeout":     func(t *testing.T) { assert.Equal(t, 55*time.Second, ours.IdleConnTimeout) },
		"MaxIdleConnsPerHost": func(t *testing.T) { assert.Equal(t, 100, ours.MaxIdleConnsPerHost) },
		"HTTP2": func(t *testing.T) {
			assert.Equal(t, &http.HTTP2Config{
				SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second,
			}, ours.HTTP2)
		},
	}
	// All that net/http has in Go 1.26: what is new must be thought about.
	unchanged := []string{
		"Proxy", "OnProxyConnectResponse", "Dial", "DialTLS", "DialTLSContext", "TLSClientConfig", "TLSHandshakeTimeout",
		"DisableKeepAlives", "DisableCompression", "MaxIdleConns", "MaxConnsPerHost", "ResponseHeaderTimeout",
		"ExpectContinueTimeout", "TLSNextProto", "ProxyConnectHeader", "GetProxyConnectHeader", "MaxResponseHeaderBytes",
		"WriteBufferSize", "ReadBufferSize", "ForceAttemptHTTP2", "Protocols",
	}
	for _, name := range fields[http.Transport]() {
		check, known := changed[name]
		switch {
		case known:
			assert.False(t, same(field(standard, name), field(ours, name)), "%s is as by default", name)
			check(t)
		case slices.Contains(unchanged, name):
			assert.True(t, same(field(standard, name), field(ours, name)), "%s differs", name)
		default:
			assert.Fail(t, "net/http has a new field: "+name)
		}
	}
}

func TestATransportsHTTP2SettingsFollowDetectWithin(t *testing.T) {
	for _, c := range []struct {
		dial dial.Config
		want http.HTTP2Config
	}{
		{dial.Config{DetectWithin: 2 * time.Second}, http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 6 * time.Second}},
		{dial.Config{DetectWithin: time.Minute}, http.HTTP2Config{SendPingTimeout: time.Minute, PingTimeout: time.Minute, WriteByteTimeout: 3 * time.Minute}},
		{dial.Config{DetectWithin: time.Minute, SlowReaders: true}, http.HTTP2Config{SendPingTimeout: time.Minute, PingTimeout: time.Minute}},
	} {
		d, err := dial.New(c.dial)
		require.NoError(t, err)
		defer d.Close()
		ours, err := NewTransport(TransportConfig{Dialer: d})
		require.NoError(t, err)
		assert.Equal(t, &c.want, ours.HTTP2, "%+v", c.dial)
		if !c.dial.SlowReaders {
			ours, err = NewTransport(TransportConfig{DetectWithin: c.dial.DetectWithin})
			require.NoError(t, err)
			assert.Equal(t, &c.want, ours.HTTP2, "%+v", c.dial)
		}
	}
}

// everything returns a Transport with a value of its own in every field but
// those that are refused.
func everything(t *testing.T) *http.Transport {
	full := &http.Transport{
		Proxy:                  http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test"}),
		OnProxyConnectResponse: func(context.Context, *url.URL, *http.Request, *http.Response) error { return nil },
		DialContext:            (&net.Dialer{}).DialContext,
		TLSClientConfig:        &tls.Config{ServerName: "name.test", NextProtos: []string{"http/1.1"}},
		TLSHandshakeTimeout:    1 * time.Second,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    3,
		MaxConnsPerHost:        4,
		IdleConnTimeout:        5 * time.Second,
		ResponseHeaderTimeout:  6 * time.Second,
		ExpectContinueTimeout:  7 * time.Second,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{"mine": nil},
		ProxyConnectHeader:     http.Header{"A": {"b"}},
		GetProxyConnectHeader:  func(context.Context, *url.URL, string) (http.Header, error) { return nil, nil },
		MaxResponseHeaderBytes: 8,
		WriteBufferSize:        9,
		ReadBufferSize:         10,
		ForceAttemptHTTP2:      true,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{},
	}
	full.Protocols.SetHTTP1(true)
	settings := reflect.ValueOf(full.HTTP2).Elem()
	for i := range settings.NumField() {
		switch f := settings.Field(i); f.Kind() {
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(1000 + i))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Func:
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value { return nil }))
		}
	}
	for _, name := range fields[http.Transport]() {
		if !slices.Contains([]string{"Dial", "DialTLS", "DialTLSContext"}, name) {
			require.False(t, reflect.ValueOf(full).Elem().FieldByName(name).IsZero(), "the test leaves out %s", name)
		}
	}
	return full
}

func TestATransportOfOnesOwnKeepsWhatItHasSet(t *testing.T) {
	theirs := everything(t)
	before := everything(t)
	ours, err := NewTransport(TransportConfig{Transport: theirs})
	require.NoError(t, err)
	for _, name := range fields[http.Transport]() {
		if name == "DialContext" {
			assert.False(t, same(field(theirs, name), field(ours, name)), "%s isn't ours", name)
		} else {
			assert.True(t, same(field(theirs, name), field(ours, name)), "%s isn't theirs", name)
		}
		if reflect.ValueOf(theirs).Elem().FieldByName(name).Kind() != reflect.Func {
			assert.True(t, same(field(before, name), field(theirs, name)), "the original's %s was changed", name)
		}
	}
	assert.Equal(t, reflect.ValueOf((&net.Dialer{}).DialContext).Pointer(), reflect.ValueOf(theirs.DialContext).Pointer())
	ours.HTTP2.MaxConcurrentStreams++
	ours.TLSClientConfig.ServerName = "other.test"
	assert.Equal(t, before.HTTP2.MaxConcurrentStreams, theirs.HTTP2.MaxConcurrentStreams, "HTTP2 is shared with the original")
	assert.Equal(t, "name.test", theirs.TLSClientConfig.ServerName, "TLSClientConfig is shared with the original")
}

func TestATransportOfOnesOwnHasZeroFieldsAndDefaultsReplaced(t *testing.T) {
	for name, theirs := range map[string]*http.Transport{
		"zero": {},
		"net/http's values": {
			IdleConnTimeout: 90 * time.Second,
			HTTP2:           &http.HTTP2Config{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ours, err := NewTransport(TransportConfig{Transport: theirs})
			require.NoError(t, err)
			assert.Equal(t, 55*time.Second, ours.IdleConnTimeout)
			assert.Equal(t, 100, ours.MaxIdleConnsPerHost)
			assert.Equal(t, 15*time.Second, ours.HTTP2.SendPingTimeout)
			assert.Equal(t, 15*time.Second, ours.HTTP2.PingTimeout)
			assert.Equal(t, 30*time.Second, ours.HTTP2.WriteByteTimeout)
			assert.Nil(t, ours.Proxy)
			assert.Zero(t, ours.TLSHandshakeTimeout)
			assert.Zero(t, ours.ExpectContinueTimeout)
			assert.Zero(t, ours.MaxIdleConns)
			assert.Nil(t, theirs.DialContext)
			assert.Zero(t, theirs.MaxIdleConnsPerHost)
		})
	}
}

func TestATransportWithADialThatWouldBypassOursIsRefused(t *testing.T) {
	plain := func(string, string) (net.Conn, error) { return nil, nil }
	withContext := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	for name, theirs := range map[string]*http.Transport{
		"Dial":           {Dial: plain},    //nolint:staticcheck // deprecated, but refused all the same
		"DialTLS":        {DialTLS: plain}, //nolint:staticcheck // the same
		"DialTLSContext": {DialTLSContext: withContext},
	} {
		_, err := NewTransport(TransportConfig{Transport: theirs})
		assert.ErrorContains(t, err, "httpclient: TransportConfig.Transport."+name+" is set")
		_, err = New(Config{Transport: theirs})
		assert.ErrorContains(t, err, "httpclient: Config.Transport."+name+" is set")
	}
}

func TestATransportConfigThatContradictsItselfIsRefusedWithAllItsFaults(t *testing.T) {
	d, err := dial.New(dial.Config{})
	require.NoError(t, err)
	defer d.Close()
	_, err = NewTransport(TransportConfig{
		DetectWithin: 5 * time.Second, Dialer: d,
		Transport: &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil },
		},
	})
	assert.ErrorContains(t, err, "TransportConfig.DetectWithin is 5s")
	assert.ErrorContains(t, err, "TransportConfig.Transport.DialTLSContext")
	_, err = NewTransport(TransportConfig{DetectWithin: time.Second})
	assert.ErrorContains(t, err, "httpclient: TransportConfig: ")
	assert.ErrorContains(t, err, "DetectWithin")
}

func TestATransportIsMadeAlsoWhenTheDefaultOneWasReplaced(t *testing.T) {
	want, err := NewTransport(TransportConfig{})
	require.NoError(t, err)
	before := http.DefaultTransport
	http.DefaultTransport = roundTripper(nil)
	got, err := NewTransport(TransportConfig{})
	http.DefaultTransport = before
	require.NoError(t, err)
	for _, name := range fields[http.Transport]() {
		if name != "TLSNextProto" && name != "DialContext" { // which Clone fills in
			assert.True(t, same(field(want, name), field(got, name)), "%s differs: %v, %v", name, field(want, name), field(got, name))
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
