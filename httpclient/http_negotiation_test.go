package httpclient

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func protocols(set ...func(*http.Protocols, bool)) *http.Protocols {
	p := new(http.Protocols)
	for _, f := range set {
		f(p, true)
	}
	return p
}

// defaultWith returns a clone of net/http's Transport, changed.
func defaultWith(change func(*http.Transport)) func() *http.Transport {
	return func() *http.Transport {
		t := http.DefaultTransport.(*http.Transport).Clone()
		change(t)
		return t
	}
}

// What is switched off in a clone, net/http offers the server all the same, and
// doesn't understand the answer.
const (
	tooLate1 = "default, empty TLSNextProto"
	tooLate2 = "default, HTTP/1 only"
)

var off = map[string]func(string, *tls.Conn) http.RoundTripper{}

// negotiations are Transports of users, and what they speak to a server that has
// both.
var negotiations = []struct {
	name   string
	theirs func() *http.Transport
	want   string
}{
	{"none", func() *http.Transport { return nil }, "HTTP/2.0"},
	{"zero", func() *http.Transport { return &http.Transport{} }, "HTTP/2.0"},
	{"a clone of the default", defaultWith(func(*http.Transport) {}), "HTTP/2.0"},
	{"TLS settings", func() *http.Transport { return &http.Transport{TLSClientConfig: &tls.Config{}} }, "HTTP/1.1"},
	{"TLS settings, forced", func() *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{}, ForceAttemptHTTP2: true}
	}, "HTTP/2.0"},
	{"own dial", func() *http.Transport { return &http.Transport{DialContext: new(net.Dialer).DialContext} }, "HTTP/1.1"},
	{"own dial, forced", func() *http.Transport {
		return &http.Transport{DialContext: new(net.Dialer).DialContext, ForceAttemptHTTP2: true}
	}, "HTTP/2.0"},
	{"own dial, protocols", func() *http.Transport {
		return &http.Transport{DialContext: new(net.Dialer).DialContext, Protocols: protocols((*http.Protocols).SetHTTP1, (*http.Protocols).SetHTTP2)}
	}, "HTTP/2.0"},
	{"empty TLSNextProto", func() *http.Transport { return &http.Transport{TLSNextProto: off} }, "HTTP/1.1"},
	{tooLate1, defaultWith(func(t *http.Transport) { t.TLSNextProto = off }), "HTTP/1.1"},
	{"HTTP/1 only", func() *http.Transport { return &http.Transport{Protocols: protocols((*http.Protocols).SetHTTP1)} }, "HTTP/1.1"},
	{tooLate2, defaultWith(func(t *http.Transport) { t.Protocols = protocols((*http.Protocols).SetHTTP1) }), "HTTP/1.1"},
	{"default, HTTP/2 only", defaultWith(func(t *http.Transport) { t.Protocols = protocols((*http.Protocols).SetHTTP2) }), "HTTP/2.0"},
}

// trust makes a Transport trust s without any other change.
func trust(t *http.Transport, s *tls.Config) {
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.RootCAs = s.RootCAs
}

// spoken is the protocol of a request's answer.
func spoken(t *testing.T, rt http.RoundTripper, url string) string {
	resp, _ := send(t, rt, newReq(t, "POST", url, nil))
	return resp.Proto
}

func TestHTTP2IsNegotiatedOrOffAsItWas(t *testing.T) {
	s := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
	trusted := trustOf(s).TLSClientConfig
	for _, c := range negotiations {
		t.Run(c.name, func(t *testing.T) {
			if theirs := c.theirs(); theirs != nil && c.name != tooLate1 && c.name != tooLate2 {
				theirs.CloseIdleConnections() // settles it
				trust(theirs, trusted)
				assert.Equal(t, c.want, spoken(t, theirs, s.URL), "with the original")
				theirs.CloseIdleConnections()
			}
			ours := transportOf(t, c.theirs())
			ours.CloseIdleConnections()
			trust(ours, trusted)
			assert.Equal(t, c.want, spoken(t, ours, s.URL), "level 1")

			client := clientOf(t, nil, func(cfg *Config) { cfg.Transport = c.theirs() })
			for _, inner := range []*http.Transport{client.plain, client.inner} {
				inner.CloseIdleConnections()
				trust(inner, trusted)
			}
			assert.Equal(t, c.want, spoken(t, client, s.URL), "level 2")
		})
	}
}

func TestHTTP2InClearIsSpokenIfNothingElseIsAllowed(t *testing.T) {
	s := unstarted(false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
	s.Config.Protocols = protocols((*http.Protocols).SetUnencryptedHTTP2)
	s.Start()
	t.Cleanup(s.Close)
	theirs := &http.Transport{Protocols: protocols((*http.Protocols).SetUnencryptedHTTP2)}
	assert.Equal(t, "HTTP/2.0", fetch(t, transportOf(t, theirs), s.URL))
	c := clientOf(t, nil, func(cfg *Config) { cfg.Transport = theirs })
	assert.Equal(t, "HTTP/2.0", fetch(t, c, s.URL))
	assert.True(t, onlyHost(t, c).HTTP2)
}
