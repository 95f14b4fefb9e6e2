package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// A hundred connections on which a read and a write wait, half of them at a
// closed window. The kernel tells its reason to one of two; neither may read an
// end of file.
func TestNeitherAReadNorAWriteThatWaitsEverReadsAnEndOfFile(t *testing.T) {
	t.Parallel()
	flow := func(o *others) { o.ForgetNAT() }
	path := func(o *others) { o.Drop() }
	together(t, map[string]func(*testing.T){
		"a lost flow":                 func(t *testing.T) { bothWait(t, false, 0, Config{SlowReaders: true}, flow) },
		"a silent path, slow readers": func(t *testing.T) { bothWait(t, false, time.Second, Config{SlowReaders: true}, path) },
		"a lost flow, TLS":            func(t *testing.T) { bothWait(t, true, 0, Config{SlowReaders: true}, flow) },
	})
}

func bothWait(t *testing.T, secure bool, closed time.Duration, cfg Config, fault func(*others)) {
	const n = 100
	within := othersWithin + slack
	cfg.WriteBuffer = 16 << 10
	o := newOthers(t, netlab.Config{NAT: true}, cfg)
	deaf, ears := labPort, labPort+1
	o.keep(t, o.Server.ListenBuffer(t, deaf, 4096), secure, false)
	o.keep(t, o.Server.Listen(t, ears), secure, true)
	dial := o.d.DialContext
	if secure {
		dial = o.d.DialTLSContext
	}
	errs := make(chan error, 2*n)
	conns := make([]net.Conn, n)
	for i := range conns {
		port, body := deaf, io.Reader(endless{})
		if i%2 == 0 {
			port, body = ears, paced{t.Context()}
		}
		c, err := o.Client.Dial(t.Context(), dial, o.Server.Addr(port))
		require.NoError(t, err)
		defer c.Close()
		conns[i] = c
		go func() {
			_, err := c.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			_, err := io.Copy(c, body)
			errs <- err
		}()
	}
	poll(3*time.Second, func() bool {
		v, _ := o.d.Guard().View(conns[n-1])
		return v.State == health.SlowReader
	})
	<-time.After(closed)
	fault(o)
	begin := time.Now()
	told := map[string]int{}
	for range 2 * n {
		select {
		case err := <-errs:
			if silent(t, err); t.Failed() {
				return
			}
			if call, ok := errors.AsType[*os.SyscallError](err); ok {
				told[call.Error()]++
			}
		case <-time.After(within + 10*time.Second):
			t.Fatal("still waiting")
		}
	}
	t.Logf("all after %d ms: %v", time.Since(begin).Milliseconds(), told)
	assert.LessOrEqual(t, time.Since(begin), o.limit(begin, within))
}

// keep accepts connections and reads all that they bring, or nothing.
func (o *others) keep(t *testing.T, ln net.Listener, secure, read bool) {
	t.Helper()
	ctx := t.Context()
	go accept(ln, func(c net.Conn) {
		if secure {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{o.cert}})
			if c = s; s.HandshakeContext(ctx) != nil {
				return
			}
		}
		if read {
			_, _ = io.Copy(io.Discard, c)
		}
		<-ctx.Done()
	})
}

// paced is a body without end whose sender has time.
type paced struct{ ctx context.Context }

func (p paced) Read(b []byte) (int, error) {
	select {
	case <-time.After(50 * time.Millisecond):
		return min(len(b), 16<<10), nil
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
}
