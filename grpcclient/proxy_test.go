package grpcclient

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// proxy is an HTTP proxy that connects everybody with the same address.
type proxy struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	asked []*http.Request
}

// newProxy serves until the test ends. It answers with a status line if there is
// one.
func newProxy(t *testing.T, to, refusal string) *proxy {
	return runProxy(t, listen(t), to, refusal)
}

func runProxy(t *testing.T, ln net.Listener, to, refusal string) *proxy {
	p := &proxy{ln: ln, to: to}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := p.ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.handle(c, refusal) })
		}
	})
	t.Cleanup(func() { p.ln.Close(); running.Wait() })
	return p
}

func (p *proxy) handle(c net.Conn, refusal string) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, req)
	p.mu.Unlock()
	if refusal != "" {
		_, _ = io.WriteString(c, refusal)
		return
	}
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	// In one write with the server's first words, which are not the proxy's.
	first := make([]byte, 9)
	if _, err := io.ReadFull(server, first); err != nil {
		return
	}
	_, _ = c.Write(append([]byte("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"), first...))
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, r); server.Close(); c.Close() })
	_, _ = io.Copy(c, server)
	c.Close()
	both.Wait()
}

func (p *proxy) hosts() (hosts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.asked {
		hosts = append(hosts, r.Host)
	}
	return hosts
}

func (p *proxy) url() *url.URL {
	return &url.URL{Scheme: "http", Host: p.ln.Addr().String(), User: url.UserPassword("me", "secret")}
}

// The name is the proxy's to look up, where the target is dns.
func TestAProxyIsAskedForTheNameAndTheConnectionIsBare(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{name: "behind"})
	for target, host := range map[string]string{
		"dns:///nowhere.invalid:8443":         "nowhere.invalid:8443",
		"nowhere.invalid":                     "nowhere.invalid:443",
		"passthrough:///nowhere.invalid:8443": "nowhere.invalid:8443",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, ln.Addr().String(), "")
			who, err := call(t.Context(), newClient(t, target, Config{Proxy: func(r *http.Request) (*url.URL, error) {
				assert.Equal(t, "https://"+host, r.URL.String())
				return p.url(), nil
			}}))
			require.NoError(t, err)
			assert.Equal(t, "behind", who)
			assert.Equal(t, []string{host}, p.hosts())
			user, password, _ := parseBasic(p.asked[0].Header.Get("Proxy-Authorization"))
			assert.Equal(t, []string{"me", "secret"}, []string{user, password})
		})
	}
}

func parseBasic(header string) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": {header}}}).BasicAuth()
}

// NO_PROXY is about the name, and must not be asked again about its addresses.
func TestATargetThatNeedsNoProxyHasNoneForItsAddressesEither(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	cc := newClient(t, "localhost:"+port, Config{Proxy: func(r *http.Request) (*url.URL, error) {
		if strings.HasPrefix(r.URL.Host, "localhost:") {
			return nil, nil
		}
		return nil, errors.New("asked about " + r.URL.Host)
	}}, grpc.WithDisableServiceConfig()) // which would be looked up elsewhere
	_, err = call(t.Context(), cc)
	require.NoError(t, err)
}

func TestWhatAProxySaysIsInTheError(t *testing.T) {
	t.Parallel()
	for refusal, want := range map[string]string{
		"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n": "407 Proxy Authentication Required",
		"HTTP/1.1 503 Nope\r\nContent-Length: 1\r\n\r\nx":    "503 Nope",
		"HTTP/1.1 403 No\n\r\n":                              "403 No",
		"HTTP/1.1 404 No\n\n":                                "404 No",
		"SSH-2.0-x\r\n\r\n":                                  "malformed HTTP",
		"HTTP/1.1 200 OK":                                    "EOF",
		strings.Repeat("x", maxHead+1):                       "its answer has no end",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, "", refusal)
			_, err := call(t.Context(), newClient(t, "passthrough:///x:1", Config{Proxy: func(*http.Request) (*url.URL, error) { return p.url(), nil }}))
			assert.Equal(t, codes.Unavailable, status.Code(err))
			assert.ErrorContains(t, err, want)
			assert.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestAProxyThatDoesNotAnswerHoldsNobodyLongerThanAnAttemptLasts(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	silent := listen(t) // its kernel accepts
	defer silent.Close()
	begun := time.Now()
	_, err := call(t.Context(), newClient(t, "passthrough:///x:1", Config{
		DetectWithin: 2 * time.Second,
		Proxy:        func(*http.Request) (*url.URL, error) { return &url.URL{Host: silent.Addr().String()}, nil },
	}))
	assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	assert.ErrorContains(t, err, "grpcclient: the proxy at "+silent.Addr().String()+", asked for x:1: context deadline exceeded: ")
	assert.NotContains(t, err.Error(), "\n")
	assert.Less(t, time.Since(begun), allowed(clock, begun, 3*time.Second))
}

func TestAProxyThatIsNotThereIsNamedWithTheTarget(t *testing.T) {
	t.Parallel()
	ln := listenApart(t)
	ln.Close()
	_, err := call(t.Context(), newClient(t, "dns:///nowhere.invalid:8443", Config{
		Proxy: func(*http.Request) (*url.URL, error) {
			return &url.URL{Host: ln.Addr().String(), User: url.UserPassword("me", "secret")}, nil
		},
	}))
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.ErrorContains(t, err, "connecting to the proxy for nowhere.invalid:8443: dial: tcp ")
	assert.ErrorContains(t, err, ln.Addr().String()+": connect: connection refused")
	assert.NotContains(t, err.Error(), "secret")
}

func TestAProxyWithoutAHostIsNotLocalhost(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("proxy:3128")
	require.NoError(t, err)
	for _, target := range []string{"dns:///x:1", "passthrough:///x:1"} {
		_, err := call(t.Context(), newClient(t, target, Config{Proxy: func(*http.Request) (*url.URL, error) { return u, nil }}))
		assert.ErrorContains(t, err, `has no host: use a URL such as http://`, target)
	}
}

func TestAFailingChoiceOfAProxyIsTheCallsError(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"dns:///x:1", "passthrough:///x:1"} {
		_, err := call(t.Context(), newClient(t, target, Config{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("no idea") }}))
		assert.ErrorContains(t, err, "no idea", target)
	}
}

func TestATargetThatIsWrongIsNoProxysBusiness(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{"dns:///x:": "missing port", "dns:///": "missing address"} {
		_, err := call(t.Context(), newClient(t, target, Config{Proxy: func(r *http.Request) (*url.URL, error) { return nil, errors.New("asked") }}))
		assert.ErrorContains(t, err, want, target)
	}
}

func TestUnixSocketsHaveNoProxy(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("unix", t.TempDir()+"/s")
	require.NoError(t, err)
	serve(t, ln, &tester{})
	_, err = call(t.Context(), newClient(t, "unix://"+ln.Addr().String(), Config{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("asked") }}),
		grpc.WaitForReady(false))
	require.NoError(t, err)
}
