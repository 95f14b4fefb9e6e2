package sockopt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// together runs subtests at the same time, all of them: they mostly wait, and
// t.Parallel runs no more than there are processors.
func together(t *testing.T, tests map[string]func(t *testing.T)) {
	t.Parallel()
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		wg.Go(func() { t.Run(name, tests[name]) })
	}
	wg.Wait()
}

const labPort = 6379

// wire is a connection through a network that can be broken.
type wire struct {
	lab            *netlab.Lab
	client, server *net.TCPConn
}

// wired makes a lab and a connection in it, with keep-alive off on both sides.
func wired(t *testing.T) wire {
	t.Helper()
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, labPort)
	w := wire{lab: lab, client: labDial(t, lab, lab.Server.Addr(labPort))}
	w.server = labAccept(t, ln)
	return w
}

func labDial(t *testing.T, lab *netlab.Lab, addr string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	c, err := lab.Client.Dial(t.Context(), d.DialContext, addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.(*net.TCPConn).SetLinger(0); c.Close() })
	return c.(*net.TCPConn)
}

func labAccept(t *testing.T, ln net.Listener) *net.TCPConn {
	t.Helper()
	c, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.(*net.TCPConn).SetKeepAlive(false))
	return c.(*net.TCPConn)
}

// info asks the kernel about c.
func info(t *testing.T, c net.Conn) Info {
	t.Helper()
	var i Info
	on(t, c, func(fd uintptr) { require.NoError(t, TCPInfo(fd, &i)) })
	return i
}

// until waits for cond and returns how long that took. It fails the test after
// limit.
func until(t *testing.T, limit time.Duration, what string, cond func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for {
		over := time.Since(begin) > limit // before the last look, lest a pause come between
		if cond() {
			return time.Since(begin)
		}
		if over {
			require.FailNow(t, "waited in vain", "%s, for %v", what, limit)
		}
		<-tick.C
	}
}

// untilSilent waits until nothing was heard from c's peer for d.
func untilSilent(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	until(t, d+5*time.Second, "silence", func() bool {
		i := info(t, c)
		return i.SincePeerHeard() >= d
	})
}

// question is an Ask that waits for its answer.
type question struct {
	conn  net.Conn
	info  Info
	begin time.Time
}

func ask(t *testing.T, c net.Conn) question {
	t.Helper()
	q := question{conn: c, info: info(t, c), begin: time.Now()}
	on(t, c, func(fd uintptr) { require.NoError(t, Ask(fd)) })
	return q
}

// sent reports whether the probe, or another one, has left.
func (q question) sent(t *testing.T) bool { return info(t, q.conn).SegsOut != q.info.SegsOut }

// answered is how Ask's documentation says that one tells.
func (q question) answered(t *testing.T) bool {
	t.Helper()
	i, since := info(t, q.conn), time.Since(q.begin)
	return (i.State == StateEstablished || i.State == StateCloseWait) &&
		i.SegsOut != q.info.SegsOut && i.Probes == 0 && i.SincePeerHeard() < since
}

// awaitAnswer returns how long the answer took.
func (q question) awaitAnswer(t *testing.T) time.Duration {
	t.Helper()
	until(t, 5*time.Second, "an answer", func() bool { return q.answered(t) })
	return time.Since(q.begin)
}

// shield shields c, and notes it in tm.
func shield(t *testing.T, c net.Conn, tm *Timers) {
	t.Helper()
	on(t, c, func(fd uintptr) { require.NoError(t, Shield(fd, time.Hour)) })
	tm.Shielded = time.Hour
}

func restore(t *testing.T, c net.Conn, tm Timers) {
	t.Helper()
	on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &tm)) })
}

// passes sends a byte from a to b.
func passes(t *testing.T, a, b net.Conn) {
	t.Helper()
	limit := time.Now().Add(5 * time.Second)
	require.NoError(t, a.SetWriteDeadline(limit))
	require.NoError(t, b.SetReadDeadline(limit))
	_, err := a.Write([]byte{42})
	require.NoError(t, err)
	var got [1]byte
	_, err = io.ReadFull(b, got[:])
	require.NoError(t, err)
	require.Equal(t, byte(42), got[0])
	require.NoError(t, a.SetWriteDeadline(time.Time{}))
	require.NoError(t, b.SetReadDeadline(time.Time{}))
}

// outcome is what became of a call that may block.
type outcome struct {
	n   int
	err error
	at  time.Time
}

// reading starts a Read of c, which has no deadline.
func reading(c io.Reader) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		n, err := c.Read(make([]byte, 4096))
		done <- outcome{n, err, time.Now()}
	}()
	return done
}

func await(t *testing.T, done <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the call hangs")
		return outcome{}
	}
}

// withTLS puts TLS over both ends.
func (w wire) withTLS(t *testing.T) (client, server *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	client = tls.Client(w.client, &tls.Config{InsecureSkipVerify: true})
	server = tls.Server(w.server, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(ctx) }()
	require.NoError(t, client.HandshakeContext(ctx))
	require.NoError(t, <-shaken)
	passes(t, server, client)
	passes(t, client, server)
	return client, server
}
