package httpclient

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// expecting has a Client wait for a 100.
func expecting(cfg *Config) { cfg.Transport.ExpectContinueTimeout = patience }

func TestABodyIsSentAfter100ContinueAndHintsPass(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusEarlyHints)
			}
			_, _ = io.Copy(w, r.Body)
		})
		c := clientOf(t, s, expecting)
		for range 3 {
			var continued, hints atomic.Int32
			trace := &httptrace.ClientTrace{
				Got100Continue: func() { continued.Add(1) },
				Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
					if code == http.StatusEarlyHints {
						hints.Add(1)
					}
					return nil
				},
			}
			req := newReq(t, "GET", s.URL, nil)
			_, _ = send(t, c, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
			assert.EqualValues(t, 2, hints.Load())
			body := bodyOf("body")
			req = newReq(t, "POST", s.URL, body)
			req.Header.Set("Expect", "100-continue")
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
			_, got := send(t, c, req)
			assert.Equal(t, "body", got)
			assert.EqualValues(t, 1, continued.Load())
			body.closedOnce(t)
		}
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

func TestABodyThatIsRefusedIsNotReadAndClosed(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = io.WriteString(w, "too large")
		})
		c := clientOf(t, s, expecting)
		for range 3 {
			read := false
			body := bodyOf("body")
			body.Reader = readerFunc(func([]byte) (int, error) {
				read = true
				return 0, io.EOF
			})
			req := newReq(t, "POST", s.URL, body)
			req.ContentLength = 4
			req.Header.Set("Expect", "100-continue")
			resp, got := send(t, c, req)
			assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			assert.Equal(t, "too large", got)
			body.closedOnce(t)
			assert.False(t, read)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestABodyIsSentWithout100ContinueWhenThatTakesTooLong(t *testing.T) {
	addr := tcpServer(t, func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		head := readHeader(r)
		assert.Contains(t, head, "Expect: 100-continue\r\n")
		b := make([]byte, 4)
		_, err := io.ReadFull(r, b)
		assert.NoError(t, err)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"+string(b))
	})
	c := clientOf(t, nil, func(cfg *Config) { cfg.Transport.ExpectContinueTimeout = 1 })
	req := newReq(t, "POST", "http://"+addr, bodyOf("body"))
	req.ContentLength = 4
	req.Header.Set("Expect", "100-continue")
	_, got := send(t, c, req)
	assert.Equal(t, "body", got)
}

func TestAnEarlyResponseArrivesWhileTheBodyIsStillBeingSent(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				return
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "no")
		})
		c := uncalmClientOf(t, s)
		for range 3 {
			body := &countedBody{Reader: endless{}}
			resp, got := send(t, c, newReq(t, "POST", s.URL, body))
			assert.Equal(t, http.StatusForbidden, resp.StatusCode)
			assert.Equal(t, "no", got)
			body.closedOnce(t)
			allFree(t, c)
			fetch(t, c, s.URL)
		}
		if h2 {
			assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
		}
	})
}

func TestAnEarlyResponseWithABodyThatBlocksEndsTheConnection(t *testing.T) {
	addr := tcpServer(t, func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		if strings.HasPrefix(readHeader(r), "POST") {
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, r)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = r.ReadByte()
	})
	c := clientOf(t, nil)
	pipe, w := io.Pipe() // whose writer doesn't come
	defer w.Close()
	resp, got := send(t, c, newReq(t, "POST", "http://"+addr, pipe))
	assert.Equal(t, http.StatusForbidden, resp.StatusCode)
	assert.Equal(t, "no", got)
	assert.Equal(t, "ok", fetch(t, c, "http://"+addr))
	assert.EqualValues(t, 2, onlyHost(t, c).Conns.Opened)
	var err error
	for err == nil { // net/http hangs in Read until then, and learns of its connection's end in Write
		_, err = w.Write([]byte("x"))
	}
	assert.ErrorIs(t, err, io.ErrClosedPipe, "the body was closed")
}

func TestBothDirectionsOfAStreamRunAtOnce(t *testing.T) {
	s := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		b := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, b); err != nil {
				return
			}
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
		}
	})
	c := clientOf(t, s)
	pipe, w := io.Pipe()
	resp, err := c.RoundTrip(newReq(t, "POST", s.URL, pipe))
	require.NoError(t, err)
	defer resp.Body.Close()
	for range 10 {
		_, err = io.WriteString(w, "ping")
		require.NoError(t, err)
		b := make([]byte, 4)
		_, err = io.ReadFull(resp.Body, b)
		require.NoError(t, err)
		assert.Equal(t, "ping", string(b))
	}
	w.Close()
	rest, err := io.ReadAll(resp.Body)
	assert.NoError(t, err)
	assert.Empty(t, rest)
}
