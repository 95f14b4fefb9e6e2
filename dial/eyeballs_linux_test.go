package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// blackHole returns an address whose host lives but answers no SYN: a listener
// with a full queue, of which Linux drops SYNs.
func blackHole(t *testing.T, ip string, port int) string {
	t.Helper()
	hole, err := tryBlackHole(t, ip, port)
	require.NoError(t, err)
	return hole
}

// besideBlackHole returns a listener, and a black hole at another address with
// the same port.
func besideBlackHole(t *testing.T, network, address, ip string) (ln net.Listener, hole string) {
	t.Helper()
	for range 20 { // the port may be taken there
		ln = listen(t, network, address)
		var err error
		if hole, err = tryBlackHole(t, ip, ln.Addr().(*net.TCPAddr).Port); err == nil {
			return ln, hole
		}
		ln.Close()
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	}
	t.Skip("no port is free at both addresses")
	return nil, ""
}

func tryBlackHole(t *testing.T, ip string, port int) (string, error) {
	t.Helper()
	addr := netip.MustParseAddr(ip)
	family := syscall.AF_INET
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if addr.Is6() {
		family = syscall.AF_INET6
		sa = &syscall.SockaddrInet6{Port: port, Addr: addr.As16()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, sa); err != nil {
		return "", err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return "", err
	}
	if port == 0 {
		sa, err = syscall.Getsockname(fd)
		require.NoError(t, err)
		switch sa := sa.(type) {
		case *syscall.SockaddrInet4:
			port = sa.Port
		case *syscall.SockaddrInet6:
			port = sa.Port
		}
	}
	hole := net.JoinHostPort(ip, strconv.Itoa(port))
	const patience = 200 * time.Millisecond
	for range 20 {
		begin := time.Now()
		c, err := net.DialTimeout("tcp", hole, patience)
		if err != nil {
			if time.Since(begin) < patience+patience/4 {
				return hole, nil
			}
			continue // this machine stood still, maybe before the SYN was sent
		}
		t.Cleanup(func() { c.Close() })
	}
	return "", errors.New("the queue doesn't fill")
}

// nameServer answers every question for an A or AAAA record with these
// addresses. It returns a resolver that asks it.
func nameServer(t *testing.T, addrs ...netip.Addr) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n], addrs); reply != nil {
				_, _ = pc.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// answer makes the reply to a DNS query with one question (RFC 1035, 4.1).
func answer(query []byte, addrs []netip.Addr) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root label, type and class
	if end > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[end-4:])
	reply := append([]byte(nil), query[:end]...)
	reply[2], reply[3] = 0x84, 0x80 // a response, authoritative, recursion available
	count := uint16(0)
	for _, a := range addrs {
		if a.Is4() && kind != 1 || a.Is6() && kind != 28 {
			continue
		}
		count++
		reply = append(reply, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(a.BitLen()/8))
		reply = append(reply, a.AsSlice()...)
	}
	binary.BigEndian.PutUint16(reply[6:], count)
	binary.BigEndian.PutUint32(reply[8:], 0) // no authority, no additional records
	return reply
}

func TestADeadFirstFamilyCostsOnlyTheFallbackDelay(t *testing.T) {
	if six, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here:", err)
	} else {
		six.Close()
	}
	ln, dead := besideBlackHole(t, "tcp4", "127.0.0.1:0", "::1")
	echoServer(t, ln)
	port := ln.Addr().(*net.TCPAddr).Port

	var r record
	d := newDialer(t, Config{
		Resolver: nameServer(t, netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.1")),
		Trace:    r.trace(),
	})
	begin := time.Now()
	c, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("both.example.:%d", port))
	took := time.Since(begin)
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
	assert.GreaterOrEqual(t, took, 250*time.Millisecond, "the dead family had its head start")
	assert.Less(t, took, 5*time.Second, "and no more, far from the 10 s time-out")
	assert.Equal(t, 30*time.Second, inspect(t, c).DetectIdle, "the second socket has the options, too")

	r.mu.Lock()
	defer r.mu.Unlock()
	assert.Contains(t, r.calls, "LookupStart both.example.")
	assert.Contains(t, r.calls, "ConnectStart tcp "+dead)
	assert.Contains(t, r.calls, "ConnectStart tcp "+ln.Addr().String())
}

func TestADeadFirstAddressLeavesTimeForTheNext(t *testing.T) {
	// One family, so they are tried one after the other, and the time-out is
	// divided among them.
	ln, _ := besideBlackHole(t, "tcp4", "127.0.0.2:0", "127.0.0.1")
	echoServer(t, ln)
	port := ln.Addr().(*net.TCPAddr).Port
	d := newDialer(t, Config{
		Timeout:  6 * time.Second,
		Resolver: nameServer(t, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")),
	})
	begin := time.Now()
	c, err := d.DialContext(t.Context(), "tcp", fmt.Sprintf("two.example.:%d", port))
	require.NoError(t, err)
	defer c.Close()
	assert.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
	assert.Less(t, time.Since(begin), 5*time.Second)
}
