package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

// Listen listens on a TCP port of the host, on all its IPv4 and IPv6
// addresses, until the test ends; port 0 means any. The connections that are
// accepted are closed with the lab, so that nothing which reads from one is
// left behind. Reboot closes the listener and its connections too.
func (h *Host) Listen(t TB, port int) net.Listener {
	t.Helper()
	return h.ListenBuffer(t, port, 0)
}

// ListenBuffer is Listen with a receive buffer of the given size, in bytes, on
// the listener and so on every connection that it accepts; 0 leaves the
// kernel's, which grows to megabytes. With 4096 a connection that is not read
// closes its window after a few kilobytes: the peer's kernel then probes it,
// and is answered, for ever.
func (h *Host) ListenBuffer(t TB, port, bytes int) net.Listener {
	t.Helper()
	ln, err := h.listen(port, bytes)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	t.Cleanup(ln.abort)
	return ln
}

func (h *Host) listen(port, bytes int) (*listener, error) {
	var ln *listener
	err := h.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		ln = &listener{TCPListener: l.(*net.TCPListener), host: h}
		if bytes > 0 {
			return setReadBuffer(ln.TCPListener, bytes)
		}
		return nil
	})
	if err != nil {
		if ln != nil {
			_ = ln.TCPListener.Close()
		}
		return nil, fmt.Errorf("netlab: listening on %s: %w", h.name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners == nil {
		h.listeners = make(map[*listener]struct{})
	}
	h.listeners[ln] = struct{}{}
	return ln, nil
}

// listener remembers what it accepted.
type listener struct {
	*net.TCPListener
	host *Host

	mu      sync.Mutex
	aborted bool
	conns   []*net.TCPConn
	prune   int // the length at which closed ones are sorted out
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.aborted {
		abort(c)
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	if len(l.conns) >= l.prune {
		l.conns = live(l.conns)
		l.prune = 2*len(l.conns) + 64
	}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *listener) abort() {
	_ = l.TCPListener.Close()
	l.host.mu.Lock()
	delete(l.host.listeners, l)
	l.host.mu.Unlock()
	l.mu.Lock()
	l.aborted = true
	l.mu.Unlock()
	l.reset()
}

// reset ends every accepted connection with an RST.
func (l *listener) reset() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		abort(c)
	}
}

func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func live(conns []*net.TCPConn) []*net.TCPConn {
	n := 0
	for _, c := range conns {
		rc, err := c.SyscallConn()
		if err == nil {
			err = rc.Control(func(uintptr) {})
		}
		if !errors.Is(err, net.ErrClosed) {
			conns[n] = c
			n++
		}
	}
	clear(conns[n:])
	return conns[:n]
}
