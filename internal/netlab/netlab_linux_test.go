package netlab_test

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

const port = 6379

// soon is how long something may take that ought to be done at once.
const soon = 5 * time.Second

// echo serves bytes back on every connection to ln, and ends with it.
func echo(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func context5(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, lab *netlab.Lab, addr string) net.Conn {
	t.Helper()
	c, err := lab.Client.Dial(context5(t), nil, addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends a byte and waits for it to come back. The time counts from when
// it is sent.
func exchange(c net.Conn, wait time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// userTimeout bounds how long c's kernel goes on without an acknowledgement.
func userTimeout(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	rc, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var inner error
	require.NoError(t, rc.Control(func(fd uintptr) {
		inner = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, 18, int(d/time.Millisecond))
	}))
	require.NoError(t, inner)
}

// It doesn't run beside the others, because it looks at the clock.
func TestClientAndServerTalkOverBothFamilies(t *testing.T) {
	lab, clock := netlab.New(t), netlab.NewClock(t)
	go echo(lab.Server.Listen(t, port))
	for _, addr := range []string{lab.Server.Addr(port), lab.Server.Addr6(port)} {
		start := time.Now()
		c := dial(t, lab, addr)
		require.NoError(t, exchange(c, soon))
		assert.Less(t, clock.Since(start), time.Second, "the first SYN to %s was lost", addr)
	}
}
