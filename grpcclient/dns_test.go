package grpcclient

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// nameServer is a DNS server on loopback that has the same addresses for all names.
type nameServer struct {
	conn net.PacketConn

	mu      sync.Mutex
	addrs   []netip.Addr
	code    dnsmessage.RCode
	txt     string
	lookups int // questions for IPv4 addresses
}

func newNameServer(t *testing.T, addrs ...string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &nameServer{conn: conn}
	s.answer(dnsmessage.RCodeSuccess, addrs...)
	var running sync.WaitGroup
	running.Go(s.serve)
	t.Cleanup(func() { conn.Close(); running.Wait() })
	return s
}

// answer says what to answer from now on.
func (s *nameServer) answer(code dnsmessage.RCode, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.addrs = code, nil
	for _, a := range addrs {
		s.addrs = append(s.addrs, netip.MustParseAddr(a))
	}
}

// text has all names have a text, too.
func (s *nameServer) text(txt string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txt = txt
}

func (s *nameServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups
}

func (s *nameServer) serve() {
	b := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		if res, err := s.respond(b[:n]); err == nil {
			_, _ = s.conn.WriteTo(res, from)
		}
	}
}

func (s *nameServer) respond(req []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(req); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Response, m.RCode, m.Additionals = true, s.code, nil
	for _, q := range m.Questions {
		if q.Type == dnsmessage.TypeTXT && s.txt != "" {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.TXTResource{TXT: []string{s.txt}},
			})
		}
		if q.Type != dnsmessage.TypeA {
			continue
		}
		s.lookups++
		for _, a := range s.addrs {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	return m.Pack()
}

// target is a name on a port, to be looked up here.
func (s *nameServer) target(port string) string {
	return "dns://" + s.conn.LocalAddr().String() + "/server.test.:" + port
}

// Loopback addresses that nobody else uses: when a server has ended its port isn't
// another listener's soon.
const addressOne, addressTwo = "127.0.9.1", "127.0.9.2"

// twoServers listen on the same port of two addresses.
func twoServers(t *testing.T) (one, two *grpc.Server, port string) {
	t.Helper()
	for range 20 {
		ln, err := net.Listen("tcp", net.JoinHostPort(addressOne, "0"))
		if err != nil {
			break
		}
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		other, err := net.Listen("tcp", net.JoinHostPort(addressTwo, port))
		if err != nil {
			ln.Close()
			continue
		}
		return serve(t, ln, &tester{name: "one"}), serve(t, other, &tester{name: "two"}), port
	}
	t.Skipf("no port is free on both %s and %s, or there is no such address", addressOne, addressTwo)
	return nil, nil, ""
}

// gRPC looks a name up again after 30 s at the earliest.
func TestAServerThatMovesIsFoundSoonAfterItsRecordHasChanged(t *testing.T) {
	t.Parallel()
	one, _, port := twoServers(t)
	names := newNameServer(t, addressOne)
	cc := newClient(t, names.target(port), Config{})
	who, err := call(t.Context(), cc)
	require.NoError(t, err)
	require.Equal(t, "one", who)

	one.Stop()
	require.True(t, eventually(10*time.Second, func() bool { return names.asked() > 1 }), "the loss makes gRPC look it up again")
	_, err = call(t.Context(), cc)
	require.Equal(t, codes.Unavailable, status.Code(err))
	names.answer(dnsmessage.RCodeSuccess, addressTwo)
	moved := time.Now()
	who, err = call(t.Context(), cc, grpc.WaitForReady(true))
	require.NoError(t, err)
	assert.Equal(t, "two", who)
	t.Logf("found %d ms after its record had changed, with %d lookups", time.Since(moved).Milliseconds(), names.asked())
}

func TestAClientThatIsStartedBeforeItsNameExistsFindsItsServerSoonAfterwards(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		code dnsmessage.RCode
		asks int // of package net in a lookup
	}{
		"no such name":        {dnsmessage.RCodeNameError, 1},
		"a server that fails": {dnsmessage.RCodeServerFailure, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := netlab.NewClock(t)
			_, _, port := twoServers(t)
			names := newNameServer(t)
			names.answer(of.code)
			cc := newClient(t, names.target(port), Config{})
			cc.Connect()
			require.True(t, eventually(20*time.Second, func() bool { return names.asked() >= 6*of.asks }), "gRPC's sixth lookup comes after 15 s, the seventh after 10 to 16 more")
			names.answer(dnsmessage.RCodeSuccess, addressTwo)
			mended := time.Now()
			who, err := call(t.Context(), cc, grpc.WaitForReady(true))
			require.NoError(t, err)
			assert.Equal(t, "two", who)
			t.Logf("found %d ms after its name", time.Since(mended).Milliseconds())
			assert.LessOrEqual(t, time.Since(mended), allowed(clock, mended, time.Second))
		})
	}
}

// gRPC turns to the next address after 250 ms.
func TestTheLastOfManyAddressesIsFoundThoughTheOthersAreSilent(t *testing.T) {
	t.Parallel()
	clock := netlab.NewClock(t)
	ln := listen(t)
	serve(t, ln, &tester{name: "last"})
	var addrs []string
	for i := range 16 {
		addrs = append(addrs, fmt.Sprintf("192.0.2.%d", i+1))
	}
	names := newNameServer(t, addrs...)
	c := &connector{connect: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == addrs[len(addrs)-1]+":1" {
			return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	cc := newClient(t, names.target("1"), Config{DetectWithin: 2 * time.Second}, grpc.WithContextDialer(c.dial))
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := testgrpc.NewTestServiceClient(cc).UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	took := time.Since(begun)
	t.Logf("found after %d ms, with %d lookups", took.Milliseconds(), names.asked())
	assert.LessOrEqual(t, took, allowed(clock, begun, 8*time.Second))
}

// A wrong service config is an error to gRPC, which goes on with the one before.
func TestAWrongServiceConfigInDNSDoesNotMakeLookupsMoreFrequent(t *testing.T) {
	t.Parallel()
	one, _, port := twoServers(t)
	names := newNameServer(t, addressOne, addressTwo)
	cc := newClient(t, names.target(port), Config{})
	_, err := call(t.Context(), cc)
	require.NoError(t, err)
	names.text(`grpc_config=[{"serviceConfig":{"loadBalancingConfig":7}}]`)
	one.Stop()
	require.True(t, eventually(10*time.Second, func() bool { return names.asked() > 1 }))
	_, err = call(t.Context(), cc, grpc.WaitForReady(true))
	require.NoError(t, err)
	passes(time.Now(), 8*time.Second)
	asked := names.asked()
	t.Logf("%d lookups", asked)
	assert.LessOrEqual(t, asked, 6)
	assert.Greater(t, asked, 2, "it may be mended")
}

func TestANameIsNotLookedUpWhileItsServerAnswers(t *testing.T) {
	t.Parallel()
	_, _, port := twoServers(t)
	names := newNameServer(t, addressOne, addressTwo)
	cc := newClient(t, names.target(port), Config{})
	for range 200 {
		_, err := call(t.Context(), cc)
		require.NoError(t, err)
	}
	assert.Equal(t, 1, names.asked())
}

func TestAClientThatWasIdleLooksItsNameUpAgain(t *testing.T) {
	t.Parallel()
	_, _, port := twoServers(t)
	names := newNameServer(t, addressOne)
	cc := newClient(t, names.target(port), Config{}, grpc.WithIdleTimeout(50*time.Millisecond))
	for i, server := range []string{"one", "two", "one"} {
		names.answer(dnsmessage.RCodeSuccess, []string{addressOne, addressTwo}[i%2])
		who, err := call(t.Context(), cc)
		require.NoError(t, err)
		assert.Equal(t, server, who)
		require.True(t, eventually(10*time.Second, func() bool { return cc.GetState() == connectivity.Idle }))
	}
	assert.Equal(t, 3, names.asked())
}

func TestInTheLogAnAddressIsNamedWithItsRouteButNoPassword(t *testing.T) {
	for _, proxy := range []*url.URL{nil, {Host: "proxy.test:1", User: url.UserPassword("me", "secret")}} {
		s := route{proxy: proxy, name: &lookups{}}.mark([]resolver.Address{{Addr: "192.0.2.1:1"}})[0].String()
		if proxy == nil {
			assert.Contains(t, s, `"direct"`)
		} else {
			assert.Contains(t, s, `"by the proxy proxy.test:1"`)
		}
		assert.NotContains(t, s, "%!")
		assert.NotContains(t, s, "secret")
	}
}
