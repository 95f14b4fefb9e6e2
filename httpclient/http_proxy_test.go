package httpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requests notes what a proxy has been asked.
type requests struct {
	mu   sync.Mutex
	list []*http.Request
}

func (r *requests) note(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, req)
}

func (r *requests) last() *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == 0 {
		return nil
	}
	return r.list[len(r.list)-1]
}

func TestAProxyIsUsedForHTTPAndHTTPS(t *testing.T) {
	secure := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, " ", r.Proto) })
	var seen requests
	proxy := proxyServer(t, secure.Listener.Addr().String(), seen.note)
	proxy.User = url.UserPassword("user", "word")
	theirs := trustOf(secure)
	theirs.Proxy = http.ProxyURL(proxy)
	levels(t, theirs, func(t *testing.T, rt http.RoundTripper) {
		for _, host := range []string{"a.test", "b.test:81", "a.test"} {
			assert.Equal(t, "by proxy: http://"+host+"/path", fetch(t, rt, "http://"+host+"/path"))
			user, word, _ := basicAuth(seen.last())
			assert.Equal(t, "user word", user+" "+word)
		}
		assert.Equal(t, "example.com HTTP/2.0", fetch(t, rt, "https://example.com"))
		assert.Equal(t, http.MethodConnect, seen.last().Method)
		assert.Equal(t, "example.com:443", seen.last().Host)
		user, word, _ := basicAuth(seen.last())
		assert.Equal(t, "user word", user+" "+word)
		c, ok := rt.(*Client)
		if !ok {
			return
		}
		hosts := c.Stat().Hosts
		require.Len(t, hosts, 2, "one for all hosts of http")
		assert.Equal(t, Host{Scheme: "http", Proxy: "http://" + proxy.Host}, hosts[0].Host)
		assert.EqualValues(t, 1, hosts[0].Conns.Opened)
		assert.Equal(t, Host{Scheme: "https", Addr: "example.com:443", Proxy: "http://" + proxy.Host}, hosts[1].Host)
		assert.NotContains(t, fmt.Sprint(hosts), "word")
	})
}

func basicAuth(r *http.Request) (user, word string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
}

func TestAProxyIsChosenForEachRequest(t *testing.T) {
	direct := serverOf(t, false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "direct") })
	proxies := map[string]*url.URL{
		"one": proxyServer(t, "", func(*http.Request) {}),
		"two": proxyServer(t, "", func(*http.Request) {}),
	}
	theirs := &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) {
		if name := r.Header.Get("Proxy"); name == "none" {
			return nil, errors.New("no such proxy")
		} else {
			return proxies[name], nil
		}
	}}
	levels(t, theirs, func(t *testing.T, rt http.RoundTripper) {
		for _, name := range []string{"", "one", "two", "one", ""} {
			req := newReq(t, "GET", direct.URL, nil)
			req.Header.Set("Proxy", name)
			_, got := send(t, rt, req)
			if name == "" {
				assert.Equal(t, "direct", got)
			} else {
				assert.Equal(t, "by proxy: "+direct.URL+"/", got)
			}
		}
		body := bodyOf("x")
		req := newReq(t, "POST", direct.URL, body)
		req.Header.Set("Proxy", "none")
		assert.ErrorContains(t, failing(t, rt, req), "no such proxy")
		body.closedOnce(t)
		if c, ok := rt.(*Client); ok {
			assert.Len(t, c.Stat().Hosts, 3)
		}
	})
}

func TestAProxyThatRefusesIsNamedInTheError(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(s.Close)
	theirs := &http.Transport{Proxy: http.ProxyURL(mustParse(t, s.URL))}
	for _, c := range []*Client{
		clientOf(t, nil, func(cfg *Config) { cfg.Transport = theirs }),
		clientOf(t, nil, failFast, func(cfg *Config) { cfg.Transport = theirs }),
	} {
		resp, _ := send(t, c, newReq(t, "GET", "http://name.test", nil))
		assert.Equal(t, http.StatusProxyAuthRequired, resp.StatusCode)
		body := bodyOf("x")
		err := failing(t, c, newReq(t, "POST", "https://name.test", body).WithContext(untilOpeningFails(t, c, 1)))
		assert.ErrorContains(t, err, "Proxy Authentication Required")
		assert.ErrorContains(t, err, "via "+s.URL)
		body.closedOnce(t)
	}
}

func TestAProxyThatIsNotThereIsToldFromTheServer(t *testing.T) {
	theirs := &http.Transport{Proxy: http.ProxyURL(mustParse(t, "http://"+refusing(t)))}
	c := clientOf(t, nil, failFast, func(cfg *Config) { cfg.Transport = theirs })
	for _, scheme := range []string{"http", "https"} {
		err := failing(t, c, newReq(t, "GET", scheme+"://name.test", nil))
		assert.ErrorContains(t, err, "proxyconnect tcp")
		assert.ErrorContains(t, err, "refused")
	}
}

const helperProxy = "HOLDFAST_TEST_PROXY"

// package net/http reads the environment once, so that it takes a process of its own.
func TestTheProxiesOfTheEnvironmentAreHonoured(t *testing.T) {
	if os.Getenv(helperProxy) != "" {
		inEnvironment(t)
		return
	}
	proxy := proxyServer(t, "", func(*http.Request) {})
	cmd := exec.Command(os.Args[0], "-test.run=^TestTheProxiesOfTheEnvironmentAreHonoured$", "-test.v")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasSuffix(strings.ToLower(name), "_proxy") && name != "REQUEST_METHOD" {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, helperProxy+"=1", "HTTP_PROXY="+proxy.String(), "https_proxy="+proxy.Host, "NO_PROXY=direct.invalid,.inside.invalid:8080")
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

func inEnvironment(t *testing.T) {
	// No name is looked up anywhere, which could take as long as it likes.
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no names here")
	}}
	for _, theirs := range []*http.Transport{nil, http.DefaultTransport.(*http.Transport).Clone()} {
		levels(t, theirs, func(t *testing.T, rt http.RoundTripper) {
			for _, u := range []string{"http://proxied.invalid/", "http://inside.invalid:8081/"} {
				assert.Equal(t, "by proxy: "+u, fetch(t, rt, u))
			}
			proxied := func(u string) bool {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				resp, err := rt.RoundTrip(newReq(t, "GET", u, nil).WithContext(ctx))
				if err == nil {
					resp.Body.Close()
					return true
				}
				return strings.Contains(err.Error(), "Bad Gateway")
			}
			assert.True(t, eventually(patience, func() bool { return proxied("https://proxied.invalid") }))
			for _, u := range []string{"http://direct.invalid/", "https://direct.invalid/", "http://a.inside.invalid:8080/"} {
				assert.False(t, proxied(u), u)
			}
		})
	}
}
