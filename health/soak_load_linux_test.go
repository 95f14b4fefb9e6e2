package health

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// pauseFor waits for a random time about mean, and reports whether the load goes
// on.
func (c *soakClient) pauseFor(mean time.Duration) bool {
	timer := time.NewTimer(time.Duration(mathrand.ExpFloat64() * float64(mean)))
	defer timer.Stop()
	select {
	case <-c.ctx.Done():
		return false
	case <-timer.C:
		return c.ctx.Err() == nil
	}
}

// work uses a connection as its role wants, until the load ends.
func (c *soakClient) work(conn *soakConn) {
	var err error
	switch conn.role {
	case soakIdle:
		<-c.ctx.Done()
	case soakChat:
		mean := []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second}[mathrand.IntN(3)]
		for err == nil && c.pauseFor(mean) {
			err = c.echo(conn, 1+mathrand.IntN(2000))
		}
	case soakBulk:
		for err == nil && c.pauseFor(2*time.Second) {
			err = c.bulk(conn)
		}
	}
	if err != nil {
		c.lost(conn, err)
	}
}

// echo makes a round trip.
func (c *soakClient) echo(conn net.Conn, size int) error {
	began := time.Now()
	message := make([]byte, orderSize+size)
	_, _ = rand.Read(message)
	copy(message, order{op: 'e', size: uint32(size)}.encode())
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	reply := make([]byte, size)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(reply, message[orderSize:]) {
		return fmt.Errorf("a reply to something else")
	}
	c.trips.Add(1)
	c.mu.Lock()
	c.report.LongestRoundTrip = max(c.report.LongestRoundTrip, time.Since(began))
	c.mu.Unlock()
	return nil
}

// bulk uploads or downloads. Where no user timeout forbids it, an upload may
// stay unread for longer than DetectWithin.
func (c *soakClient) bulk(conn *soakConn) error {
	o := order{op: "ud"[mathrand.IntN(2)], size: uint32(1 + mathrand.IntN(c.orders.Bulk))}
	if !conn.limited && mathrand.IntN(6) == 0 {
		o = order{op: 'u', size: 4 * soakBuffer, wait: detectWithin + mathrand.N(2*time.Second)}
		c.unread.Add(1)
	}
	c.bytes.Add(int64(o.size))
	sent, received := o.encode(), int64(1)
	if o.op == 'u' {
		sent = append(sent, make([]byte, o.size)...)
	} else {
		received = int64(o.size)
	}
	if _, err := conn.Write(sent); err != nil {
		return fmt.Errorf("write of %d: %w", len(sent), err)
	}
	if n, err := io.CopyN(io.Discard, conn, received); err != nil {
		return fmt.Errorf("read of %d, got %d: %w", received, n, err)
	}
	return nil
}

// churn opens and closes connections: each that works is evidence against its
// silent siblings, and each that is reset makes them suspects.
func (c *soakClient) churn() {
	for c.pauseFor(300 * time.Millisecond) {
		c.workers.Go(func() {
			server := c.orders.Servers[mathrand.IntN(len(c.orders.Servers))]
			conn, err := c.dial(server, "", mathrand.IntN(2) == 0)
			if err != nil {
				return // there may be an outage
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(within))
			if mathrand.IntN(5) == 0 {
				c.resets.Add(1)
				_, _ = conn.Write(order{op: 'r'}.encode())
				_, _ = conn.Read(make([]byte, 1))
				return
			}
			if c.echo(conn, 1) == nil {
				c.churned.Add(1)
			}
		})
	}
}

// check asks for some connections, as a pool does before it uses them.
func (c *soakClient) check() {
	for c.pauseFor(200 * time.Millisecond) {
		var conns []*soakConn
		var some []net.Conn
		for range 1 + mathrand.IntN(10) {
			conn := c.conns[mathrand.IntN(len(c.conns))]
			conns, some = append(conns, conn), append(some, conn.Conn)
		}
		ctx, cancel := context.WithTimeout(c.ctx, within)
		states, err := c.guard.Check(ctx, some...)
		cancel()
		if err != nil && c.ctx.Err() == nil {
			c.wrong("Check: %v", err)
		}
		for i, s := range states {
			if s == Dead || s == Unwatched {
				c.lost(conns[i], s)
			}
		}
		c.checks.Add(1)
	}
}

// doubt accuses without reason.
func (c *soakClient) doubt() {
	for c.pauseFor(2 * time.Second) {
		c.conns[mathrand.IntN(len(c.conns))].watch.Doubt(syscall.ETIMEDOUT)
		c.doubts.Add(1)
	}
}

// setReadBuffer is for listeners, whose connections inherit it.
func setReadBuffer(rc syscall.RawConn, bytes int) error {
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = sockopt.SetReadBuffer(fd, bytes) }); err != nil {
		return err
	}
	return opErr
}
