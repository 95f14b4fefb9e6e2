package httpclient

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAResponseClosedEarlyCostsAnHTTP1ConnectionAndNoHTTP2One(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/endless" {
				_, _ = io.Copy(w, endless{})
			}
		})
		c := clientOf(t, s)
		for range 3 {
			resp, err := c.RoundTrip(newReq(t, "GET", s.URL+"/endless", nil))
			require.NoError(t, err)
			_, err = io.ReadFull(resp.Body, make([]byte, 1000))
			assert.NoError(t, err)
			assert.NoError(t, resp.Body.Close())
			assert.NoError(t, resp.Body.Close(), "again")
			allFree(t, c)
			fetch(t, c, s.URL)
		}
		if h2 {
			assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
		} else {
			assert.EqualValues(t, 4, onlyHost(t, c).Conns.Opened)
		}
	})
}

func TestAnUnreadRestThatHasArrivedKeepsTheConnection(t *testing.T) {
	s := serverOf(t, false, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "exact") })
	c := clientOf(t, s)
	for range 3 {
		resp, err := c.RoundTrip(newReq(t, "GET", s.URL, nil))
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, len("exact"))) // but not to EOF
		require.NoError(t, err)
		resp.Body.Close()
	}
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
}

func TestAConnectionThatOneSideClosesServesOneRequest(t *testing.T) {
	for name, reply := range map[string]string{
		"the server says close": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0":              "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0 up to EOF":    "HTTP/1.0 200 OK\r\n\r\nok",
		"HTTP/1.1 up to EOF":    "HTTP/1.1 200 OK\r\n\r\nok",
		"the client says close": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			addr := tcpServer(t, func(c net.Conn, _ int) {
				r := bufio.NewReader(c)
				head := readHeader(r)
				assert.Equal(t, strings.HasPrefix(name, "the client"), strings.Contains(head, "Connection: close\r\n"))
				_, _ = io.WriteString(c, reply)
				if strings.Contains(reply, "Length") {
					_, _ = r.ReadByte() // so that it is the client who closes
				}
			})
			c := clientOf(t, nil)
			for range 3 {
				req := newReq(t, "GET", "http://"+addr, nil)
				req.Close = strings.HasPrefix(name, "the client")
				_, body := send(t, c, req)
				assert.Equal(t, "ok", body)
				allFree(t, c)
			}
			assert.EqualValues(t, 3, onlyHost(t, c).Conns.Opened)
			assert.Zero(t, c.Stat().Retries)
		})
	}
}

func TestAnHTTP10ServerThatKeepsAliveIsUsedAgain(t *testing.T) {
	addr := tcpServer(t, answers("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"))
	c := clientOf(t, nil)
	for range 3 {
		assert.Equal(t, "ok", fetch(t, c, "http://"+addr))
	}
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
}

func TestHTTP2ConnectionEndsAfterARequestThatClosesIt(t *testing.T) {
	s := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
	})
	c := clientOf(t, s)
	req := newReq(t, "GET", s.URL, nil)
	req.Close = true
	_, _ = send(t, c, req)
	fetch(t, c, s.URL)
	assert.EqualValues(t, 2, onlyHost(t, c).Conns.Opened)
	for range 5 {
		fetch(t, c, s.URL+"/close") // the server says GOAWAY
	}
	assert.LessOrEqual(t, onlyHost(t, c).Conns.Opened, int64(7))
}

func TestWithoutKeepAlivesEachRequestHasItsConnection(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
		c := clientOf(t, s, func(cfg *Config) { cfg.Transport.DisableKeepAlives = true })
		for range 3 {
			assert.Equal(t, "ok", fetch(t, c, s.URL))
			allFree(t, c)
		}
		assert.EqualValues(t, 3, onlyHost(t, c).Conns.Opened)
	})
}

func TestSpellingsOfAHostShareItsConnection(t *testing.T) {
	addr := tcpServer(t, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	_, port, _ := net.SplitHostPort(addr)
	c := clientOf(t, nil)
	fetch(t, c, "http://localhost:"+port)
	fetch(t, c, "http://LOCALhost:"+port+"/")
	fetch(t, c, "http://user@LocalHost:"+port+"/path")
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	assert.Equal(t, "http://localhost:"+port, onlyHost(t, c).Host.String())
}

func TestADefaultPortIsTheExplicitOne(t *testing.T) {
	c := clientOf(t, nil)
	for _, same := range [][]string{
		{"http://name.test", "http://name.test:80", "http://NAME.test:", "http://name.test:80/path"},
		{"https://name.test", "https://name.test:443", "https://Name.test:"},
		{"https://name.test:80"},
		{"http://name.test:443"},
		{"http://[2001:db8::1]", "http://[2001:db8::1]:80", "http://[2001:DB8::1]:"},
		{"http://[2001:db8::1]:8080"},
	} {
		var first *host
		for _, u := range same {
			h, err := c.hostOf(newReq(t, "GET", u, nil))
			require.NoError(t, err)
			h.leave(c.now())
			if first == nil {
				first = h
			}
			assert.Same(t, first, h, u)
		}
	}
	assert.Len(t, c.Stat().Hosts, 6)
}

func TestAnIPv6LiteralIsDialed(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	s := unstarted(false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	c := clientOf(t, nil)
	assert.Equal(t, l.Addr().String(), fetch(t, c, s.URL))
	assert.Equal(t, "http://"+l.Addr().String(), onlyHost(t, c).Host.String())
}

func TestWhatIsNoPoolsBusinessGoesToATransport(t *testing.T) {
	files := http.NewFileTransport(http.Dir(t.TempDir()))
	c := clientOf(t, nil)
	c.plain.RegisterProtocol("file", files)
	resp, err := c.RoundTrip(newReq(t, "GET", "file:///none", nil))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusNotFound, resp.StatusCode)
	body := bodyOf("x")
	_, err = c.RoundTrip(newReq(t, "POST", "gopher://name.test", body))
	assert.ErrorContains(t, err, "unsupported protocol scheme")
	body.closedOnce(t)
	c.plain.Proxy = http.ProxyURL(proxyServer(t, "", func(*http.Request) {}))
	assert.Contains(t, fetch(t, c, "http://bücher.test/"), "http://xn--bcher-kva.test/", "the name is encoded")
	c.plain.CloseIdleConnections()
	assert.Empty(t, c.Stat().Hosts)
}

func TestTheLimitsOfATransportDontReachAClientsConnections(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
		c := clientOf(t, s, func(cfg *Config) {
			cfg.Transport.MaxConnsPerHost = 1 // net/http would panic when such a connection is closed
			cfg.Transport.MaxIdleConnsPerHost = -1
			cfg.Transport.IdleConnTimeout = 1
		})
		for range 3 {
			assert.Equal(t, "ok", fetch(t, c, s.URL))
		}
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
		s.CloseClientConnections()
		assert.True(t, eventually(patience, func() bool { return onlyHost(t, c).Conns.Total == 0 }))
		assert.Equal(t, "ok", fetch(t, c, s.URL))
	})
}
