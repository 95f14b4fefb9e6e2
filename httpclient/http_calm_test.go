package httpclient

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// calm has a Transport's connections read what has come only when nothing is being
// written. On a busy machine a response may be read while the goroutine that wrote
// the request has not come back from that, and net/http, which waits 50 ms for it,
// closes the connection then, so that its use can't be counted on. It is not for
// servers that answer before they have read the request.
func calm(t *http.Transport) {
	dial := t.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &calmConn{Conn: c}, nil
	}
}

type calmConn struct {
	net.Conn
	writing sync.Mutex
}

func (c *calmConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.Conn.Write(p)
}

func (c *calmConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.writing.Lock()
	defer c.writing.Unlock()
	return n, err
}
