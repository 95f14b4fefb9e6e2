package dial

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkDial dials on loopback in turns with ours and with a bare net.Dialer,
// so that both see the same machine. ns/op is for a pair.
func BenchmarkDial(b *testing.B) {
	ln := listen(b, "tcp", "127.0.0.1:0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	defer func() { ln.Close(); <-done }()
	addr := ln.Addr().String()

	bare := net.Dialer{Timeout: 10 * time.Second}
	bare.SetMultipathTCP(false)
	traced := &Trace{
		DialDone:    func(context.Context, DialDone) {},
		ConnectDone: func(context.Context, ConnectDone) {},
	}
	for _, tt := range []struct {
		name string
		cfg  Config
	}{{"guard=off", Config{Unguarded: true}}, {"trace=off", Config{}}, {"trace=on", Config{Trace: traced}}} {
		b.Run(tt.name, func(b *testing.B) {
			ours := newDialer(b, tt.cfg)
			var times [2]time.Duration
			dial := func(i int, f func(context.Context, string, string) (net.Conn, error)) {
				begin := time.Now()
				c, err := f(b.Context(), "tcp", addr)
				times[i] += time.Since(begin)
				require.NoError(b, err)
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
			n := 0
			for b.Loop() {
				n++
				if n%2 == 0 {
					dial(0, ours.DialContext)
					dial(1, bare.DialContext)
				} else {
					dial(1, bare.DialContext)
					dial(0, ours.DialContext)
				}
			}
			b.ReportMetric(float64(times[0])/float64(n), "ours-ns/dial")
			b.ReportMetric(float64(times[1])/float64(n), "bare-ns/dial")
		})
	}
}
