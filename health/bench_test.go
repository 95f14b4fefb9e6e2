//go:build !plan9

package health

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func BenchmarkClassify(b *testing.B) {
	c, peer := pair(b)
	reset(b, peer)
	_, err := c.Read(make([]byte, 1))
	require.Error(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if Classify(err) != Conn {
			b.Fatal(err)
		}
	}
}

func BenchmarkSniff(b *testing.B) {
	for _, layer := range []string{"bare", "tls"} {
		b.Run("conn="+layer, func(b *testing.B) {
			bare, _ := pair(b)
			var c net.Conn = bare
			if layer == "tls" {
				c = tls.Client(bare, &tls.Config{})
			}
			w, _ := watch(b, newGuard(b, GuardConfig{}), c)
			b.ReportAllocs()
			for b.Loop() {
				if err := w.Sniff(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDead(b *testing.B) {
	c, _ := pair(b)
	w, _ := watch(b, newGuard(b, GuardConfig{}), c)
	for b.Loop() {
		if w.Dead() {
			b.Fatal(w.Cause())
		}
	}
}

func BenchmarkWatchAndStop(b *testing.B) {
	c, _ := pair(b)
	g := newGuard(b, GuardConfig{})
	b.ReportAllocs()
	for b.Loop() {
		w, err := g.Watch(c, nil, func(*Watch) {})
		if err != nil {
			b.Fatal(err)
		}
		w.Stop()
	}
}

// BenchmarkFINToCallback measures from just before the peer's close, so that it
// contains the system call that sends the FIN.
func BenchmarkFINToCallback(b *testing.B) {
	g := newGuard(b, GuardConfig{})
	var took []time.Duration
	died := make(chan time.Time, 1)
	for b.Loop() {
		c, peer := pair(b)
		w, err := g.Watch(c, nil, func(*Watch) { died <- time.Now() })
		require.NoError(b, err)
		time.Sleep(100 * time.Microsecond) // let the Guard park
		start := time.Now()
		peer.Close()
		took = append(took, (<-died).Sub(start))
		w.Stop()
		c.Close()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
