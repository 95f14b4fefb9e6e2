package httpclient

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchServer answers five bytes.
func benchServer(b testing.TB, h2 bool) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	s.EnableHTTP2 = h2
	if h2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	b.Cleanup(s.Close)
	return s
}

// rival is one of the two that are compared.
type rival struct {
	name string
	rt   http.RoundTripper

	perOp, p99, cpu, allocs []float64
}

// BenchmarkRoundTrip compares a Client with an http.Transport of the same
// settings on loopback, by requests that have a deadline, in turns, and reports medians: ns for a request, its
// 99th percentile, processor time of both sides, and allocations, each with the
// ratio or difference.
func BenchmarkRoundTrip(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		for _, workers := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("h2=%v/workers=%d", h2, workers), func(b *testing.B) {
				s := benchServer(b, h2)
				base := s.Client().Transport.(*http.Transport).Clone()
				base.DialContext, base.DialTLSContext = nil, nil
				base.MaxIdleConnsPerHost = 256
				c, err := New(Config{Transport: base})
				require.NoError(b, err)
				defer c.Close(context.Background())
				defer base.CloseIdleConnections()
				rivals := []*rival{{name: "transport", rt: base}, {name: "client", rt: c}}
				for _, r := range rivals {
					r.load(b, s.URL, workers, 100*workers) // warm
				}
				for b.Loop() {
					for range 10 {
						for _, r := range rivals {
							r.measure(b, s.URL, workers)
						}
						slices.Reverse(rivals)
					}
				}
				slices.SortFunc(rivals, func(a, b *rival) int { return len(b.name) - len(a.name) })
				t, k := rivals[0], rivals[1]
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(medianOf(t.perOp), "transport-ns")
				b.ReportMetric(medianOf(k.perOp), "client-ns")
				b.ReportMetric(medianRatio(k.perOp, t.perOp), "ratio")
				b.ReportMetric(medianRatio(k.p99, t.p99), "p99-ratio")
				b.ReportMetric(medianRatio(k.cpu, t.cpu), "cpu-ratio")
				b.ReportMetric(medianOf(k.allocs)-medianOf(t.allocs), "more-allocs")
			})
		}
	}
}

func (r *rival) measure(b *testing.B, url string, workers int) {
	n := 4000
	var took []time.Duration
	before, busy := mallocs(), cpuTime()
	begun := time.Now()
	took = r.load(b, url, workers, n)
	r.cpu = append(r.cpu, float64(cpuTime()-busy)/float64(len(took)))
	r.perOp = append(r.perOp, float64(time.Since(begun).Nanoseconds())/float64(len(took)))
	r.allocs = append(r.allocs, float64(mallocs()-before)/float64(len(took)))
	slices.Sort(took)
	r.p99 = append(r.p99, float64(took[len(took)*99/100]))
}

// load makes n requests, and returns how long each took.
func (r *rival) load(b *testing.B, url string, workers, n int) []time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	took := make([][]time.Duration, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			mine := make([]time.Duration, 0, n/workers+1)
			for left.Add(-1) >= 0 {
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
				begun := time.Now()
				resp, err := r.rt.RoundTrip(req)
				if err != nil {
					b.Error(err)
					cancel()
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				cancel()
				mine = append(mine, time.Since(begun))
			}
			took[i] = mine
		})
	}
	wg.Wait()
	return slices.Concat(took...)
}

func medianOf(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// medianRatio is the median of the ratios of neighbours.
func medianRatio(a, b []float64) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return medianOf(r)
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// cpuTime is what this process has taken of the processors.
func cpuTime() time.Duration {
	s := []metrics.Sample{{Name: "/cpu/classes/user:cpu-seconds"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}}
	runtime.GC() // which brings the numbers up to date
	metrics.Read(s)
	return time.Duration((s[0].Value.Float64() + s[1].Value.Float64()) * float64(time.Second))
}
