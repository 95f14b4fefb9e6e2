package httpclient

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/pool"
)

// echoServer answers 101 for a protocol, and echoes from then on.
func echoServer(t testing.TB, protocol string) string {
	return tcpServer(t, func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Upgrade") == protocol {
				break
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello", protocol)
		_, _ = io.Copy(c, r)
	})
}

func upgrade(t testing.TB, c *Client, addr, protocol string) io.ReadWriteCloser {
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr, nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	resp, err := c.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	assert.Same(t, req, resp.Request)
	cancel() // which is over for the connection, as with a Transport
	conn, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok, "%T", resp.Body)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func echoes(t testing.TB, conn io.ReadWriter, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	b := make([]byte, len(text))
	_, err = io.ReadFull(conn, b)
	require.NoError(t, err)
	assert.Equal(t, text, string(b))
}

func TestAConnectionThatSwitchesProtocolsIsTheCallers(t *testing.T) {
	addr := echoServer(t, "echo")
	c := clientOf(t, nil, func(cfg *Config) { cfg.MaxConnsPerHost, cfg.MaxConns = 1, 1 })
	var conns []io.ReadWriteCloser
	for i := range 3 { // each frees its slot
		assert.Equal(t, "ok", fetch(t, c, "http://"+addr))
		conn := upgrade(t, c, addr, "echo")
		b := make([]byte, 5)
		_, err := io.ReadFull(conn, b)
		require.NoError(t, err)
		assert.Equal(t, "hello", string(b), "what came with the response")
		conns = append(conns, conn)
		host := onlyHost(t, c)
		assert.Zero(t, host.InFlight)
		assert.Zero(t, host.Conns.Total)
		assert.EqualValues(t, i+1, host.Conns.Closed(pool.ReasonHijacked))
	}
	c.CloseIdleConnections()
	for _, conn := range conns {
		echoes(t, conn, "after CloseIdleConnections")
	}
	require.NoError(t, c.Close(context.Background()))
	for _, conn := range conns {
		echoes(t, conn, "after Close")
		assert.NoError(t, conn.Close())
		_, err := conn.Write([]byte("x"))
		assert.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestAWebSocketHandshakeUsesHTTP1BesideHTTP2(t *testing.T) {
	s := serverOf(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, r.Proto)
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, rw)
	})
	c := clientOf(t, s)
	assert.Equal(t, "HTTP/2.0", fetch(t, c, s.URL))
	req := newReq(t, "GET", s.URL, nil)
	req.Header.Set("Connection", "keep-alive, Upgrade")
	req.Header.Set("Upgrade", "WebSocket")
	resp, err := c.RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	assert.Equal(t, "HTTP/1.1", resp.Proto)
	conn := resp.Body.(io.ReadWriteCloser)
	defer conn.Close()
	echoes(t, conn, "before")
	require.NoError(t, c.Close(context.Background()))
	echoes(t, conn, "after Close")
}

func TestAnUpgradeThatIsRefusedIsAnOrdinaryExchange(t *testing.T) {
	addr := echoServer(t, "another")
	c := clientOf(t, nil)
	for range 3 {
		req := newReq(t, "GET", "http://"+addr, nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		_, got := send(t, c, req)
		assert.Equal(t, "ok", got)
	}
	assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
}
