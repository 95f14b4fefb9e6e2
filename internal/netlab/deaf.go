package netlab

import (
	"net"
	"sync"
	"sync/atomic"
)

// Deaf is a server that accepts connections and doesn't read from them until
// Hear is called. Its receive buffers are small, so the window closes after a
// few kilobytes; from then on the senders' writes fill their own buffers and
// block, while Deaf's kernel answers every window probe and keep-alive.
type Deaf struct {
	ln       *listener
	hear     chan struct{}
	listen   func()
	received atomic.Int64
	wg       sync.WaitGroup
}

// ListenDeaf makes a Deaf on a TCP port of the host, until the test ends.
func (h *Host) ListenDeaf(t TB, port int) *Deaf {
	t.Helper()
	ln, err := h.listen(port, 4096)
	if err != nil {
		t.Fatalf("%v", err)
		return nil
	}
	d := &Deaf{ln: ln, hear: make(chan struct{})}
	d.listen = sync.OnceFunc(func() { close(d.hear) })
	d.wg.Go(d.serve)
	t.Cleanup(func() {
		ln.abort()
		d.listen()
		d.wg.Wait()
	})
	return d
}

// Hear makes it read from all connections, present and future, and throw away
// what it reads; where the peer has finished, it closes.
func (d *Deaf) Hear() { d.listen() }

// Received is the number of bytes that it has read.
func (d *Deaf) Received() int64 { return d.received.Load() }

func (d *Deaf) serve() {
	for {
		c, err := d.ln.Accept()
		if err != nil {
			return
		}
		d.wg.Go(func() {
			<-d.hear
			d.read(c)
		})
	}
}

func (d *Deaf) read(c net.Conn) {
	defer c.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		d.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}
