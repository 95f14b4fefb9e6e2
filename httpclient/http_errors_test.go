package httpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/pool"
)

func failFast(cfg *Config) { cfg.FailFast = true }

// failing sends a request that must fail.
func failing(t testing.TB, rt http.RoundTripper, req *http.Request) error {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if !assert.Error(t, err) {
		resp.Body.Close()
		t.FailNow()
	}
	assert.Nil(t, resp)
	return err
}

func TestARefusedConnectionIsToldAtOnceOrAtTheDeadline(t *testing.T) {
	addr := refusing(t)
	body := bodyOf("x")
	err := failing(t, clientOf(t, nil, failFast), newReq(t, "POST", "http://"+addr, body))
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok)
	assert.Equal(t, Host{Scheme: "http", Addr: addr}, e.Host)
	assert.Equal(t, 1, e.Attempts)
	assert.False(t, e.Reused)
	assert.False(t, e.Timeout())
	body.closedOnce(t)

	body = bodyOf("x")
	c := clientOf(t, nil)
	err = failing(t, c, newReq(t, "POST", "http://"+addr, body).WithContext(untilOpeningFails(t, c, 1)))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED, "the last dial's")
	assert.ErrorContains(t, err, "http://"+addr)
	_, ok = errors.AsType[*pool.AcquireError](err)
	assert.True(t, ok)
	e, ok = errors.AsType[*Error](err)
	require.True(t, ok)
	assert.True(t, e.Timeout())
	body.closedOnce(t)
}

func TestAServerThatNeverAnswersEndsAtTheDeadline(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		c := clientOf(t, s)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		err := failing(t, c, newReq(t, "GET", s.URL, nil).WithContext(ctx))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		assert.Equal(t, 1, e.Attempts, "there is no time for another")
		assert.True(t, e.Timeout())
		assert.Zero(t, c.Stat().Retries)
	})
}

func TestAServerThatNeverAnswersEndsAtTheTransportsHeaderTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		requests := make(chan bool, 10)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			requests <- true
			<-r.Context().Done()
		})
		c := clientOf(t, s, func(cfg *Config) { cfg.Transport.ResponseHeaderTimeout = 50 * time.Millisecond })
		err := failing(t, c, newReq(t, "GET", s.URL, nil))
		assert.ErrorContains(t, err, "timeout awaiting response headers")
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		assert.Equal(t, 1, e.Attempts, "what takes too long is not asked for again")
		<-requests // the server may be later than the timeout
		assert.Empty(t, requests)
	})
}

func TestTheTimeoutOfAnHTTPClientIsNamed(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		})
		h := clientOf(t, s).HTTPClient()
		h.Timeout = 100 * time.Millisecond
		header := func() error {
			_, err := h.Get(s.URL)
			u, ok := errors.AsType[*url.Error](err)
			require.True(t, ok)
			assert.True(t, u.Timeout())
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			return err
		}
		body := func() error {
			resp, err := h.Get(s.URL + "/body")
			for errors.Is(err, context.DeadlineExceeded) && h.Timeout < patience { // the header has come too late
				h.Timeout *= 2
				resp, err = h.Get(s.URL + "/body")
			}
			require.NoError(t, err)
			defer resp.Body.Close()
			_, err = io.ReadAll(resp.Body)
			return err
		}
		isNamed(t, "(Client.Timeout exceeded while awaiting headers)", header)
		isNamed(t, "Client.Timeout or context cancellation while reading body", body)
	})
}

// isNamed tries several times: the timer of an http.Client may be later than the
// Client waits for it (timeOutWithin) where others have the processors.
func isNamed(t *testing.T, name string, f func() error) {
	t.Helper()
	var err error
	for range 5 {
		if err = f(); err != nil && strings.Contains(err.Error(), name) {
			return
		}
	}
	assert.ErrorContains(t, err, name)
}

func TestWrongSchemesAreExplained(t *testing.T) {
	c := clientOf(t, nil)
	plain := serverOf(t, false, func(w http.ResponseWriter, r *http.Request) {})
	for _, c := range []*Client{c, clientOf(t, nil, failFast)} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := failing(t, c, newReq(t, "GET", strings.Replace(plain.URL, "http", "https", 1), nil).WithContext(ctx))
		assert.ErrorContains(t, err, "the server answers HTTP where TLS was expected")
		_, ok := errors.AsType[tls.RecordHeaderError](err)
		assert.True(t, ok)
		assert.NotErrorIs(t, err, context.DeadlineExceeded, "no repetition mends that")
	}

	secure := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) {})
	resp, body := send(t, c, newReq(t, "GET", strings.Replace(secure.URL, "https", "http", 1), nil))
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	assert.Contains(t, body, "Client sent an HTTP request to an HTTPS server")

	err := failing(t, c, newReq(t, "GET", secure.URL, nil))
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	assert.True(t, ok, "%v", err)
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "it is told at once")
}

func TestARequestThatIsWrongIsRefusedAsByATransport(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		c := clientOf(t, s)
		fetch(t, c, s.URL)
		theirs := trustOf(s)
		defer theirs.CloseIdleConnections()
		wrong := int64(100)
		if h2 {
			wrong = 3 // there, too little is only the server's to notice
		}
		for name, spoil := range map[string]func(*http.Request){
			"method":       func(r *http.Request) { r.Method = "A B" },
			"header name":  func(r *http.Request) { r.Header["a b"] = []string{"c"} },
			"header value": func(r *http.Request) { r.Header["A"] = []string{"b\nc"} },
			"trailer":      func(r *http.Request) { r.Trailer = http.Header{"a b": nil} },
			"no host":      func(r *http.Request) { r.URL.Host = "" },
			"no URL":       func(r *http.Request) { r.URL = nil },
			"no header":    func(r *http.Request) { r.Header = nil },
			"scheme":       func(r *http.Request) { r.URL.Scheme = "htp" },
			"body":         func(r *http.Request) { r.ContentLength = wrong },
			"GetBody": func(r *http.Request) {
				r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("none") }
				r.Method = ""
				r.ContentLength = wrong
			},
		} {
			t.Run(name, func(t *testing.T) {
				for _, rt := range []http.RoundTripper{theirs, c} {
					if h2 && rt == theirs && name == "method" {
						continue // on HTTP/2 a Transport sends it
					}
					body := bodyOf("body")
					req := newReq(t, "POST", s.URL, nil)
					req.Body, req.ContentLength = body, 4
					spoil(req)
					assert.Error(t, failing(t, rt, req))
					body.closedOnce(t)
				}
			})
		}
		fetch(t, c, s.URL)
		opened := int64(1)
		if !h2 { // half a body is worse than none
			opened += 2
		}
		assert.LessOrEqual(t, onlyHost(t, c).Conns.Opened, opened, "what isn't sent costs no connection")
	})
}

func TestAMalformedResponseFailsAndFreesItsSlot(t *testing.T) {
	long := strings.Repeat("a", 11<<20)
	for name, reply := range map[string]string{
		"nothing":                 "",
		"no HTTP":                 "SSH-2.0-OpenSSH_9.9\r\n",
		"no status":               "HTTP/1.1\r\n\r\n",
		"status that's no number": "HTTP/1.1 two OK\r\n\r\n",
		"version":                 "HTTP/9.9.9 200 OK\r\n\r\n",
		"half a header":           "HTTP/1.1 200 OK\r\nContent-Le",
		"header without colon":    "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
		"negative length":         "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"two lengths":             "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"transfer encoding":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: strange\r\n\r\n",
		"less than its length":    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
		"bad chunk":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"half a chunk":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
		"no last chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
		"no gzip":                 "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
		"endless header":          "HTTP/1.1 200 OK\r\nA: " + long + "\r\n\r\n",
		"unasked upgrade":         "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/2's settings":       "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			addr := tcpServer(t, func(c net.Conn, n int) {
				if n > 1 {
					answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, n)
					return
				}
				b := make([]byte, 1000)
				_, _ = c.Read(b)
				_, _ = io.WriteString(c, reply)
			})
			c := clientOf(t, nil, func(cfg *Config) { cfg.MaxConnsPerHost = 1 })
			body := bodyOf("x") // not to be repeated
			resp, err := c.RoundTrip(newReq(t, "POST", "http://"+addr, body))
			if err == nil {
				if resp.StatusCode == http.StatusSwitchingProtocols {
					resp.Body.Close()
				} else {
					_, err = io.ReadAll(resp.Body)
					assert.Error(t, err)
					resp.Body.Close()
				}
			} else {
				e, ok := errors.AsType[*Error](err)
				require.True(t, ok)
				assert.Equal(t, 1, e.Attempts)
			}
			body.closedOnce(t)
			allFree(t, c)
			assert.Equal(t, "ok", fetch(t, c, "http://"+addr))
		})
	}
}
