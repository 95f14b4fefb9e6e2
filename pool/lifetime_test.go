package pool

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLifetimesAreUniform is a Kolmogorov-Smirnov test of what is drawn at a
// connection's birth against the uniform distribution.
func TestLifetimesAreUniform(t *testing.T) {
	for _, limit := range []time.Duration{time.Second, time.Hour, 24 * time.Hour} {
		for _, jitter := range []time.Duration{limit / 10, limit} {
			t.Run(limit.String()+"/"+jitter.String(), func(t *testing.T) {
				const n = 10_000
				drawn := make([]float64, n)
				for i := range drawn {
					d := lifetime(limit, jitter)
					require.LessOrEqual(t, d, limit, "the maximum is a maximum")
					require.GreaterOrEqual(t, d, limit-jitter)
					drawn[i] = float64(limit-d) / float64(jitter)
				}
				slices.Sort(drawn)
				var worst float64
				for i, x := range drawn {
					worst = max(worst, x-float64(i)/n, float64(i+1)/n-x)
				}
				// 1.95/√n is exceeded once in a thousand runs by chance, 3/√n once
				// in 30 million; seconds-wide steps exceed it always.
				require.Less(t, worst, 3.0/100, "distance from the uniform distribution")
			})
		}
	}
	require.Equal(t, time.Hour, lifetime(time.Hour, 0))
}
