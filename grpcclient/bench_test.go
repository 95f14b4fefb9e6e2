package grpcclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// rival is one of those that are compared.
type rival struct {
	name       string
	connect    func() grpc.ClientConnInterface
	cc         grpc.ClientConnInterface
	perOp, p99 []float64
}

// BenchmarkUnary compares ClientConns with and without DialOptions, and pools of 1
// and 4, on loopback, in turns, and reports medians: ns for a call, and the ratios
// to a plain ClientConn of that and of the 99th percentile. Each iteration has new
// connections, since some are faster than others. Again is another plain
// one: how far its ratios are from 1 is what the machine adds. The pool of 4 is
// compared with four plain ones used in rotation, too: what these cost more than one
// is gRPC's price for sockets that have less to send at a time, where neither the
// server nor the throughput of one is the limit.
func BenchmarkUnary(b *testing.B) {
	for _, workers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			ln := listen(b)
			serve(b, ln, &tester{})
			target := ln.Addr().String()
			plain := func() grpc.ClientConnInterface { return plainClient(b, target) }
			rivals := []*rival{
				{name: "plain", connect: plain},
				{name: "again", connect: plain},
				{name: "options", connect: func() grpc.ClientConnInterface { return newClient(b, target, Config{}) }},
				{name: "pool1", connect: func() grpc.ClientConnInterface { return newPool(b, target, 1, PoolConfig{}) }},
				{name: "pool4", connect: func() grpc.ClientConnInterface { return newPool(b, target, 4, PoolConfig{}) }},
				{name: "four", connect: func() grpc.ClientConnInterface { return newRotation(b, target, 4) }},
			}
			for b.Loop() {
				compete(b, rivals, workers)
			}
			base, pool4, four := rivals[0], rivals[4], rivals[5]
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(medianOf(base.perOp), "plain-ns")
			for _, r := range rivals[1:] {
				b.ReportMetric(medianRatio(r.perOp, base.perOp), r.name+"-ratio")
				b.ReportMetric(medianRatio(r.p99, base.p99), r.name+"-p99-ratio")
			}
			b.ReportMetric(medianRatio(pool4.perOp, four.perOp), "pool4-to-four-ratio")
			b.ReportMetric(medianRatio(pool4.p99, four.p99), "pool4-to-four-p99-ratio")
		})
	}
}

// compete has each of the rivals measured on new connections, in turns.
func compete(b *testing.B, rivals []*rival, workers int) {
	for _, r := range rivals {
		r.cc = r.connect()
		defer closeOf(r.cc)
		r.load(b, workers, 2000) // warm
	}
	turns := slices.Clone(rivals)
	for range 20 {
		rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, r := range turns {
			r.measure(b, workers)
		}
	}
}

func closeOf(cc grpc.ClientConnInterface) {
	switch c := cc.(type) {
	case *grpc.ClientConn:
		c.Close()
	case *Pool:
		_ = c.Close(context.Background())
	case *rotation:
		for _, cc := range c.ccs {
			cc.Close()
		}
	}
}

// rotation is the simplest of pools.
type rotation struct {
	ccs  []*grpc.ClientConn
	next atomic.Uint32
}

func newRotation(b *testing.B, target string, n int) *rotation {
	r := &rotation{}
	for range n {
		r.ccs = append(r.ccs, plainClient(b, target))
	}
	return r
}

func (r *rotation) one() *grpc.ClientConn { return r.ccs[int(r.next.Add(1))%len(r.ccs)] }

func (r *rotation) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return r.one().Invoke(ctx, method, args, reply, opts...)
}

func (r *rotation) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return r.one().NewStream(ctx, desc, method, opts...)
}

func (r *rival) measure(b *testing.B, workers int) {
	const n = 512
	begun := time.Now()
	took := r.load(b, workers, n)
	r.perOp = append(r.perOp, float64(time.Since(begun).Nanoseconds())/float64(len(took)))
	slices.Sort(took)
	r.p99 = append(r.p99, float64(took[len(took)*99/100]))
}

// load makes n calls, and returns how long each took.
func (r *rival) load(b *testing.B, workers, n int) []time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	took := make([][]time.Duration, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			client := testgrpc.NewTestServiceClient(r.cc)
			mine := make([]time.Duration, 0, n/workers+1)
			for left.Add(-1) >= 0 {
				begun := time.Now()
				if _, err := client.UnaryCall(context.Background(), &testgrpc.SimpleRequest{}); err != nil {
					b.Error(err)
					return
				}
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
