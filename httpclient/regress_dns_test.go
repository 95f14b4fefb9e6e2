package httpclient

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/dial"
)

// nameServer answers all questions for addresses over UDP (RFC 1035), and fails
// while it has none.
type nameServer struct {
	conn     net.PacketConn
	failures atomic.Int64

	mu    sync.Mutex
	addrs []netip.Addr
}

func newNameServer(t testing.TB, addrs ...netip.Addr) *nameServer {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &nameServer{conn: conn, addrs: addrs}
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer := s.answer(b[:n]); err == nil && answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		running.Wait()
	})
	return s
}

func (s *nameServer) set(addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = addrs
}

// answer is that to a query, or nil if it is none.
func (s *nameServer) answer(query []byte) []byte {
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 { // labels
		end += 1 + int(query[end])
	}
	end += 1 + 2 + 2 // the last label, type and class
	if end > len(query) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var records []byte
	count := uint16(0)
	if binary.BigEndian.Uint16(query[end-4:]) == 1 { // A
		for _, a := range s.addrs {
			count++
			records = append(records, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name asked for, A, IN, TTL 0, 4 bytes
			records = append(records, a.AsSlice()...)
		}
	}
	flags := uint16(0x8180) // an answer, as wanted recursively
	if len(s.addrs) == 0 {
		s.failures.Add(1)
		flags |= 2 // SERVFAIL
	}
	b := append([]byte{}, query[:2]...) // the query's number
	for _, v := range []uint16{flags, 1, count, 0, 0} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return append(append(b, query[header:end]...), records...)
}

// dialer returns one that asks s.
func (s *nameServer) dialer(t testing.TB) *dial.Dialer {
	d, err := dial.New(dial.Config{
		DetectWithin: 5 * time.Second,
		Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// twins are two servers with the same port on two addresses, which count the
// connections they have open.
type twins struct {
	addr [2]netip.Addr
	open [2]atomic.Int64
	port int
}

func newTwins(t testing.TB, k kind) *twins {
	w := &twins{addr: [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}}
	var listeners [2]net.Listener
	for range 20 { // the port may be taken on the other address
		listeners[0] = listenLocal(t, w.addr[0].String()+":0")
		w.port = listeners[0].Addr().(*net.TCPAddr).Port
		var err error
		listeners[1], err = net.Listen("tcp", net.JoinHostPort(w.addr[1].String(), strconv.Itoa(w.port)))
		if err == nil {
			break
		}
		listeners[0].Close()
		listeners[1] = nil
	}
	if listeners[1] == nil {
		t.Skip("there is no second address on loopback here")
	}
	for i, l := range listeners {
		open := &w.open[i]
		serveOn(t, k, l, &http.Server{
			Handler: newHolding(t),
			ConnState: func(_ net.Conn, s http.ConnState) {
				switch s {
				case http.StateNew:
					open.Add(1)
				case http.StateClosed, http.StateHijacked:
					open.Add(-1)
				}
			},
		})
	}
	return w
}
