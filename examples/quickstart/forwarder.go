package main

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// forwarder is what the pools take for the Redis server: it passes bytes to
// and from the real one. To its clients it can do what a server can do, and the
// server behind it notices nothing.
type forwarder struct {
	server string                       // Redis
	listen func() (net.Listener, error) // at the same address every time
	moving sync.WaitGroup

	mu    sync.Mutex
	ln    net.Listener // nil while the server is away
	links map[*link]struct{}
	awake chan struct{} // closed unless the server hangs
	ended bool
}

// link is a client's connection and the one to the server.
type link struct {
	client, server net.Conn
	used           atomic.Int64 // when something was last moved, in Unix nanoseconds
}

func newForwarder(server string, listen func() (net.Listener, error)) (*forwarder, error) {
	f := &forwarder{server: server, listen: listen, links: map[*link]struct{}{}, awake: make(chan struct{})}
	close(f.awake)
	return f, f.start()
}

func (f *forwarder) start() error {
	ln, err := f.listen()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ln = ln
	f.moving.Go(func() { f.accept(ln) })
	return nil
}

func (f *forwarder) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the client is gone already
			time.Sleep(10 * time.Millisecond)
			continue
		}
		f.moving.Go(func() { f.serve(ln, c) })
	}
}

func (f *forwarder) serve(ln net.Listener, c net.Conn) {
	f.ready()
	server, err := net.DialTimeout("tcp", f.server, 5*time.Second)
	if err != nil {
		_ = c.Close()
		return
	}
	l := &link{client: c, server: server}
	l.used.Store(time.Now().UnixNano())
	f.mu.Lock()
	if f.ended || f.ln != ln {
		f.mu.Unlock()
		l.end()
		return
	}
	f.links[l] = struct{}{}
	f.mu.Unlock()
	f.moving.Go(func() { f.move(l, l.client, l.server) })
	f.move(l, l.server, l.client)
	f.mu.Lock()
	delete(f.links, l)
	f.mu.Unlock()
}

// move passes bytes in one direction until either side has had enough.
func (f *forwarder) move(l *link, to, from net.Conn) {
	defer l.end()
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		f.ready()
		l.used.Store(time.Now().UnixNano())
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // the reason is the other side's
		}
	}
}

// ready waits while the server hangs.
func (f *forwarder) ready() {
	f.mu.Lock()
	awake := f.awake
	f.mu.Unlock()
	<-awake
}

// end closes both connections properly. It may be called again.
func (l *link) end() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// stop is a server that is shut down: it stops to listen and takes leave of
// all clients. Like the other faults it returns how many there were.
func (f *forwarder) stop() int {
	f.mu.Lock()
	_ = f.ln.Close()
	f.ln = nil
	f.mu.Unlock()
	return f.each(func(l *link) bool { _ = l.client.Close(); return true })
}

// reset aborts all clients' connections: they receive a reset.
func (f *forwarder) reset() int {
	return f.each(func(l *link) bool {
		if c, ok := l.client.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		_ = l.client.Close()
		return true
	})
}

// closeIdle closes the connections on which nothing has moved for so long.
func (f *forwarder) closeIdle(limit time.Duration) int {
	before := time.Now().Add(-limit).UnixNano()
	return f.each(func(l *link) bool {
		if l.used.Load() > before {
			return false
		}
		_ = l.client.Close()
		return true
	})
}

// each calls do for all links. Faults close the client's side alone, because
// that is quick: move does the rest.
func (f *forwarder) each(do func(*link) bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for l := range f.links {
		if do(l) {
			n++
		}
	}
	return n
}

// hang is a server whose process stands still, while its kernel goes on to
// accept and to acknowledge.
func (f *forwarder) hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awake = make(chan struct{})
}

// wake ends it.
func (f *forwarder) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.awake:
	default:
		close(f.awake)
	}
}

// close ends the forwarder and waits for all that it started.
func (f *forwarder) close() {
	f.wake()
	f.mu.Lock()
	f.ended = true
	if f.ln != nil {
		_ = f.ln.Close()
	}
	f.mu.Unlock()
	f.each(func(l *link) bool { l.end(); return true })
	f.moving.Wait()
}
