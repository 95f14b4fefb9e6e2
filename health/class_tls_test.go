package health

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tlsServer accepts connections and gives each handshaken one to serve.
func tlsServer(t *testing.T, change func(*tls.Config), serve func(net.Conn)) (addr string, client *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	cfg := s.TLS.Clone()
	cfg.NextProtos = nil
	if change != nil {
		change(cfg)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if c.(*tls.Conn).Handshake() == nil && serve != nil {
				serve(c)
			}
			c.Close()
		}
	}()
	return ln.Addr().String(), client
}

func TestRealTLSErrors(t *testing.T) {
	for _, test := range []struct {
		name        string
		server      func(*tls.Config)
		client      func(*tls.Config)
		safe, never bool
	}{
		{"unknown CA", nil, func(c *tls.Config) { c.RootCAs = nil }, true, true},
		{"wrong name", nil, func(c *tls.Config) { c.ServerName = "elsewhere.test" }, true, true},
		{"certificate wanted, 1.3", func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, nil, false, true},
		{"certificate wanted, 1.2", func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }, nil, false, true},
		{"no version in common", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false, true},
		{"no protocol in common", func(c *tls.Config) { c.NextProtos = []string{"a"} }, func(c *tls.Config) { c.NextProtos = []string{"b"} }, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, cfg := tlsServer(t, test.server, nil)
			if test.client != nil {
				test.client(cfg)
			}
			c, err := tls.Dial("tcp", addr, cfg)
			if err == nil { // in TLS 1.3 the server looks at our certificate afterwards
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			require.Error(t, err)
			assert.Equal(t, Conn, Classify(err), "%v", err)
			assert.Equal(t, test.safe, SafeToRetry(err), "%v", err)
			assert.Equal(t, test.never, Permanent(err), "%v", err)
		})
	}
}

func TestPlainServerForATLSClientIsConnAndSafe(t *testing.T) {
	client, server := pair(t)
	_, err := server.Write([]byte("-ERR unknown command\r\n"))
	require.NoError(t, err)
	err = tls.Client(client, &tls.Config{ServerName: "a"}).Handshake()
	require.ErrorAs(t, err, new(tls.RecordHeaderError))
	assert.Equal(t, Conn, Classify(err))
	assert.True(t, SafeToRetry(err))
}

// frame is an HTTP/2 frame.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// http2Server answers every connection's first request with the head of a 200
// and what end holds, and hangs up.
func http2Server(t *testing.T, end ...[]byte) http.RoundTripper {
	t.Helper()
	hold := make(chan struct{})
	addr, cfg := tlsServer(t, func(c *tls.Config) { c.NextProtos = []string{"h2"} }, func(c net.Conn) {
		head := make([]byte, 9)
		io.ReadFull(c, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
		c.Write(frame(4, 0, 0)) // SETTINGS
		for head[3] != 1 {      // HEADERS
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)>>8))
		}
		c.Write(frame(1, 4, 1, 0x88)) // :status 200
		for _, f := range end {
			c.Write(f)
		}
		<-hold
	})
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	tr.DialTLSContext = nil
	t.Cleanup(func() { tr.CloseIdleConnections() })
	return rewrite{tr, addr, func() { close(hold) }}
}

// rewrite sends every request to addr, and calls answered once there is an answer.
type rewrite struct {
	to       *http.Transport
	addr     string
	answered func()
}

func (r rewrite) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = r.addr
	resp, err := r.to.RoundTrip(req)
	r.answered()
	return resp, err
}

func TestRealHTTP2Errors(t *testing.T) {
	code := func(n byte) []byte { return []byte{0, 0, 0, n} }
	for _, test := range []struct {
		name  string
		end   [][]byte
		kind  string
		class Class
		safe  bool
	}{
		{"REFUSED_STREAM", [][]byte{frame(3, 0, 1, code(7)...)}, "StreamError", Unknown, true},
		{"INTERNAL_ERROR", [][]byte{frame(3, 0, 1, code(2)...)}, "StreamError", Unknown, false},
		{"GOAWAY", [][]byte{frame(7, 0, 0, append(code(1), code(0)...)...)}, "GoAwayError", Conn, false},
		{"GOAWAY below", [][]byte{frame(7, 0, 0, append(code(0), code(0)...)...)}, "", Conn, true},
		{"broken frame", [][]byte{frame(4, 0, 0, 1)}, "ConnectionError", Conn, false},
		{"nothing", nil, "", Conn, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, err := http2Server(t, test.end...).RoundTrip(httptest.NewRequest("GET", "https://example.com/", nil))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			require.Error(t, err)
			e, ok := asHTTP2(err)
			assert.Equal(t, test.kind != "", ok, "%T %v", err, err)
			assert.Equal(t, test.kind, e.kind)
			assert.Equal(t, test.class, Classify(err), "%T %v", err, err)
			assert.Equal(t, test.safe, SafeToRetry(err), "%T %v", err, err)
			assert.False(t, SafeToRetry(&url.Error{Op: "Get", Err: err}), "it may be of a redirection")
			if e.code == refusedStream {
				assert.False(t, SafeToRetry(otherCause(err)), "not the server's word")
			}
		})
	}
}

// otherCause returns a stream's error as if it had been found on this side.
func otherCause(streamError error) error {
	v := reflect.New(reflect.TypeOf(streamError)).Elem()
	v.Set(reflect.ValueOf(streamError))
	v.FieldByName("Cause").Set(reflect.ValueOf(errors.New("too many streams")))
	return v.Interface().(error)
}

func TestWhatAnHTTPClientRepeatedIsNotSafe(t *testing.T) {
	var orders atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		orders.Add(1)
		http.Redirect(w, r, "http://gone.test/", http.StatusSeeOther)
	}))
	defer s.Close()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: io.ErrUnexpectedEOF}
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "gone.test:80" {
			return nil, refused
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	client := http.Client{Transport: tr}
	_, err := client.Post(s.URL, "text/plain", strings.NewReader("buy"))
	require.ErrorIs(t, err, refused)
	require.EqualValues(t, 1, orders.Load())
	assert.True(t, SafeToRetry(refused), "the trap")
	assert.False(t, SafeToRetry(err), "%v", err)
	assert.Equal(t, Conn, Classify(err))
}
