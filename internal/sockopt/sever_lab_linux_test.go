package sockopt

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestDisconnectIsAnErrorToItsOwnerInEveryState(t *testing.T) {
	rows := map[string]func(*testing.T, wire){
		"idle":              func(*testing.T, wire) {},
		"idle, path silent": func(_ *testing.T, w wire) { w.lab.Drop() },
		"data in flight": func(t *testing.T, w wire) {
			w.lab.Drop()
			_, err := w.client.Write(make([]byte, 3000))
			require.NoError(t, err)
			until(t, 5*time.Second, "retransmissions", func() bool { return info(t, w.client).Retransmits >= 1 })
		},
		"window closed, data unsent": func(t *testing.T, w wire) { fill(t, w.client) },
		"half closed by the owner": func(t *testing.T, w wire) {
			require.NoError(t, w.client.CloseWrite())
			until(t, 5*time.Second, "FIN-WAIT-2", func() bool { return info(t, w.client).State == StateFinWait2 })
		},
		"half closed by the owner, path silent": func(t *testing.T, w wire) {
			w.lab.Drop()
			require.NoError(t, w.client.CloseWrite())
		},
	}
	tests := map[string]func(*testing.T){
		"half closed by the peer":        testDisconnectCloseWait,
		"half closed, with unread bytes": testDisconnectUnread,
		"writer and reader both blocked": testDisconnectBothBlocked,
		"under TLS":                      testDisconnectTLS,
	}
	for name, prepare := range rows {
		tests[name] = func(t *testing.T) { testDisconnect(t, prepare) }
	}
	together(t, tests)
}

// disconnect severs w's client and checks that nothing is left of it.
func (w wire) disconnect(t *testing.T) time.Time {
	t.Helper()
	begin := time.Now()
	on(t, w.client, func(fd uintptr) { require.NoError(t, Disconnect(fd)) })
	assert.Equal(t, StateClose, info(t, w.client).State)
	for _, s := range w.lab.Client.Conns() {
		assert.NotEqual(t, w.client.LocalAddr().String(), s.Local.String())
	}
	return begin
}

// fill writes to c until no more fits: its peer doesn't read.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	on(t, c, func(fd uintptr) { require.NoError(t, SetWriteBuffer(fd, 4096)) })
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
	b := make([]byte, 1<<20)
	var err error
	for err == nil {
		_, err = c.Write(b)
	}
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
	require.NotZero(t, info(t, c).NotSent)
}

// testDisconnect severs connections that prepare has brought into some state,
// one for every thing that the owner may be doing.
func testDisconnect(t *testing.T, prepare func(*testing.T, wire)) {
	lab := netlab.New(t)
	ln := lab.Server.ListenBuffer(t, labPort, 4096)
	var ws []wire
	for range 4 {
		c := labDial(t, lab, lab.Server.Addr(labPort))
		ws = append(ws, wire{lab, c, labAccept(t, ln)})
	}
	c := ws[0].client
	blocked := reading(c)
	for _, w := range ws {
		prepare(t, w)
	}
	read := func(c net.Conn) error { return await(t, reading(c)).err }
	write := func(c net.Conn) error { _, err := c.Write([]byte{1}); return err }

	begin := ws[0].disconnect(t)
	o := await(t, blocked)
	t.Logf("blocked reader: %v after %v", o.err, o.at.Sub(begin))
	assert.ErrorIs(t, o.err, syscall.ECONNRESET)
	assert.ErrorIs(t, read(c), syscall.ENOTCONN, "only the first is told")
	assert.ErrorIs(t, write(c), syscall.EPIPE)

	c = ws[1].client
	ws[1].disconnect(t)
	assert.ErrorIs(t, read(c), syscall.ECONNRESET)
	assert.ErrorIs(t, write(c), syscall.EPIPE)

	c = ws[2].client
	ws[2].disconnect(t)
	assert.ErrorIs(t, write(c), syscall.ECONNRESET)
	assert.ErrorIs(t, read(c), syscall.ENOTCONN)

	// Spliced, where the kernel can.
	sink, _ := pair(t, "tcp", "127.0.0.1:0")
	copied := make(chan outcome, 1)
	go func() {
		n, err := io.Copy(sink, ws[3].client)
		copied <- outcome{int(n), err, time.Now()}
	}()
	ws[3].disconnect(t)
	assert.ErrorIs(t, await(t, copied).err, syscall.ECONNRESET)
}

// The peer has closed: its FIN is an EOF to whoever read before, and to nobody
// after.
func testDisconnectCloseWait(t *testing.T) {
	w := wired(t)
	require.NoError(t, w.server.CloseWrite())
	assert.ErrorIs(t, await(t, reading(w.client)).err, io.EOF, "the peer's own")
	w.disconnect(t)
	assert.ErrorIs(t, await(t, reading(w.client)).err, syscall.ECONNRESET)
	assert.ErrorIs(t, await(t, reading(w.client)).err, syscall.ENOTCONN)

	w = wired(t)
	require.NoError(t, w.server.CloseWrite())
	until(t, 5*time.Second, "a FIN", func() bool { return info(t, w.client).State == StateCloseWait })
	w.disconnect(t)
	_, err := w.client.Write([]byte{1})
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.ErrorIs(t, await(t, reading(w.client)).err, syscall.ENOTCONN)
}

// A body that ends with the connection must not end early without an error.
func testDisconnectUnread(t *testing.T) {
	for _, finished := range []bool{false, true} {
		w := wired(t)
		_, err := w.server.Write(make([]byte, 1000))
		require.NoError(t, err)
		if finished {
			require.NoError(t, w.server.CloseWrite())
			until(t, 5*time.Second, "a FIN", func() bool { return info(t, w.client).State == StateCloseWait })
		}
		until(t, 5*time.Second, "the bytes", func() bool { return info(t, w.client).BytesReceived >= 1000 })
		_, err = io.ReadFull(w.client, make([]byte, 400))
		require.NoError(t, err)
		w.disconnect(t)
		rest, err := io.ReadAll(w.client)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		assert.Empty(t, rest, "what wasn't read is lost")
	}
}

func testDisconnectBothBlocked(t *testing.T) {
	got := bothBlocked(t, 0, func(w wire) { w.disconnect(t) })
	t.Log(got)
	for errs := range got {
		switch errs {
		case [2]error{syscall.ECONNRESET, syscall.EPIPE}, [2]error{syscall.ENOTCONN, syscall.ECONNRESET}:
		default:
			assert.Fail(t, "unexpected errors", "reader: %v, writer: %v", errs[0], errs[1])
		}
	}
}

// bothBlocked counts what a reader and a writer that are blocked in the same
// connection see when end is called, or the user timeout ends it.
func bothBlocked(t *testing.T, timeout time.Duration, end func(w wire)) map[[2]error]int {
	t.Helper()
	lab := netlab.New(t)
	ln := lab.Server.ListenBuffer(t, labPort, 4096)
	type ends struct{ read, written <-chan outcome }
	var all []ends
	for range 10 {
		c := labDial(t, lab, lab.Server.Addr(labPort))
		w := wire{lab, c, labAccept(t, ln)}
		on(t, c, func(fd uintptr) {
			require.NoError(t, SetUserTimeout(fd, timeout))
			require.NoError(t, SetWriteBuffer(fd, 4096))
		})
		written := make(chan outcome, 1)
		go func() {
			n, err := c.Write(make([]byte, 1<<20))
			written <- outcome{n, err, time.Now()}
		}()
		all = append(all, ends{reading(c), written})
		until(t, 5*time.Second, "a full buffer", func() bool {
			i := info(t, c)
			return i.NotSent > 0 && i.SndWnd < 1000
		})
		end(w)
	}
	counts := make(map[[2]error]int)
	for _, e := range all {
		counts[[2]error{cause(await(t, e.read).err), cause(await(t, e.written).err)}]++
	}
	return counts
}

// cause returns the errno in err, or err.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// This is why a connection is better severed than left to its user timeout.
func TestTheKernelsVerdictIsAnErrorToOneCallOnly(t *testing.T) {
	together(t, map[string]func(*testing.T){
		"reader and writer both blocked": func(t *testing.T) {
			got := bothBlocked(t, time.Second, func(wire) {})
			t.Log(got)
			for errs := range got {
				switch errs {
				case [2]error{syscall.ETIMEDOUT, syscall.EPIPE}, [2]error{io.EOF, syscall.ETIMEDOUT}:
				default:
					assert.Fail(t, "unexpected errors", "reader: %v, writer: %v", errs[0], errs[1])
				}
			}
		},
		"reader after a writer":                         func(t *testing.T) { testDead(t, false, io.EOF) },
		"reader after a writer, disconnected meanwhile": func(t *testing.T) { testDead(t, true, syscall.ENOTCONN) },
	})
}

// testDead wants the error of a read after that of a write.
func testDead(t *testing.T, disconnect bool, want error) {
	w := wired(t)
	setTimers(t, w.client, KeepAlive{true, time.Second, time.Second, 3}, 2*time.Second)
	w.lab.Drop()
	until(t, 10*time.Second, "the end", func() bool { return info(t, w.client).State == StateClose })
	if disconnect {
		w.disconnect(t)
	}
	_, err := w.client.Write([]byte{1})
	assert.ErrorIs(t, err, syscall.ETIMEDOUT)
	for range 2 {
		assert.ErrorIs(t, await(t, reading(w.client)).err, want)
	}
}

func testDisconnectTLS(t *testing.T) {
	w := wired(t)
	c, _ := w.withTLS(t)
	blocked := reading(c)
	w.disconnect(t)
	assert.ErrorIs(t, await(t, blocked).err, syscall.ECONNRESET)
	assert.NotErrorIs(t, await(t, reading(c)).err, io.EOF)
	_, err := c.Write([]byte{1})
	assert.Error(t, err)

	w = wired(t)
	c, _ = w.withTLS(t)
	w.disconnect(t)
	assert.ErrorIs(t, await(t, reading(c)).err, syscall.ECONNRESET)

	w = wired(t)
	c, _ = w.withTLS(t)
	w.disconnect(t)
	_, err = c.Write([]byte{1})
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.ErrorIs(t, await(t, reading(c)).err, syscall.ENOTCONN)
}

func TestAHalfOpenConnectionIsNeverAccepted(t *testing.T) {
	tests := map[string]func(*testing.T){}
	for name, delay := range map[string]time.Duration{"at once": 0, "over 20 ms": 10 * time.Millisecond} {
		tests["IPv4 "+name] = func(t *testing.T) { testHalfOpen(t, (*netlab.Host).Addr, delay) }
		tests["IPv6 "+name] = func(t *testing.T) { testHalfOpen(t, (*netlab.Host).Addr6, delay) }
	}
	together(t, tests)
}

func testHalfOpen(t *testing.T, address func(*netlab.Host, int) string, delay time.Duration) {
	lab := netlab.New(t)
	if delay > 0 {
		lab.Delay(delay, 0)
	}
	ln, addr := lab.Server.Listen(t, labPort), address(lab.Server, labPort)
	half := net.Dialer{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		var opErr error
		if err := rc.Control(func(fd uintptr) { opErr = HalfOpen(fd) }); err != nil {
			return err
		}
		return opErr
	}}
	half.SetMultipathTCP(false)
	const patience = 30 * time.Millisecond // of the kernel's, before it acknowledges
	late := map[string]bool{}              // those that this machine was too slow to close before that
	for range 20 {
		begin := time.Now()
		c, err := lab.Client.Dial(t.Context(), half.DialContext, addr)
		require.NoError(t, err)
		local := c.LocalAddr().String()
		require.NoError(t, c.Close())
		late[local] = time.Since(begin) > 2*delay+patience
	}
	until(t, 5*time.Second, "the resets", func() bool { return len(lab.Server.Conns()) == 0 })
	assert.Empty(t, lab.Client.Conns())

	whole := labDial(t, lab, addr)
	first := labAccept(t, ln)
	for late[first.RemoteAddr().String()] {
		first = labAccept(t, ln)
	}
	assert.Equal(t, whole.LocalAddr().String(), first.RemoteAddr().String())
	require.Len(t, lab.Server.Conns(), 1)

	begin := time.Now()
	c, err := lab.Client.Dial(t.Context(), half.DialContext, addr)
	require.NoError(t, err)
	labAccept(t, ln)
	held := time.Since(begin) - 3*delay
	t.Logf("left open, it was accepted after %v", held)
	assert.Greater(t, held, patience)
	require.NoError(t, c.Close())
}
