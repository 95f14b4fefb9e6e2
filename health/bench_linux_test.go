package health

import (
	"testing"
	"time"
)

// BenchmarkMassClose reports how long after the last of 10,000 closes the last
// callback comes.
func BenchmarkMassClose(b *testing.B) {
	g := newGuard(b, GuardConfig{})
	var worst time.Duration
	for b.Loop() {
		b.StopTimer()
		conns, peers := crowd(b, 10_000)
		b.StartTimer()
		worst = max(worst, massClose(b, g, conns, peers))
		b.StopTimer()
		for _, c := range conns {
			c.Close()
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-lag-ms")
}
