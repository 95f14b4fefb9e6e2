package grpcclient

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// kinds begin a call of each kind, which has its server's attention when they
// return, and return what ends it.
func kinds(l *lab, cc grpc.ClientConnInterface) map[string]func(context.Context) (end func() error, err error) {
	c := testgrpc.NewTestServiceClient(cc)
	return map[string]func(context.Context) (func() error, error){
		"unary": func(ctx context.Context) (func() error, error) {
			ended := after(func() error { return waiting(ctx, cc) })
			<-l.srv.began
			return func() error { return <-ended }, nil
		},
		"client stream": func(ctx context.Context) (func() error, error) {
			s, err := c.StreamingInputCall(ctx)
			if err == nil {
				err = s.Send(&testgrpc.StreamingInputCallRequest{})
			}
			return func() error {
				res, err := s.CloseAndRecv()
				if err == nil && res.AggregatedPayloadSize != 1 {
					return io.ErrUnexpectedEOF
				}
				return err
			}, err
		},
		"server stream": func(ctx context.Context) (func() error, error) {
			s, err := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{ResponseParameters: make([]*testgrpc.ResponseParameters, 3)})
			if err == nil {
				_, err = s.Recv()
			}
			return func() error { return toTheEnd(s.Recv, 2) }, err
		},
		"both stream": func(ctx context.Context) (func() error, error) {
			s, err := c.FullDuplexCall(ctx)
			if err == nil {
				err = s.Send(&testgrpc.StreamingOutputCallRequest{})
			}
			if err == nil {
				_, err = s.Recv()
			}
			return func() error {
				if err := s.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil && err != io.EOF {
					return err
				}
				_ = s.CloseSend() // what is wrong is said by Recv
				return toTheEnd(s.Recv, 1)
			}, err
		},
	}
}

// toTheEnd receives so many messages and the end.
func toTheEnd[M any](recv func() (M, error), n int) error {
	for i := 0; ; i++ {
		switch _, err := recv(); {
		case err == io.EOF && i == n:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

func TestCallsOfAllKindsFailWithTheirConnectionAndRunOnTheNext(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"DialOptions": func(t *testing.T) {
			l := newLab(t, netlab.Config{NAT: true})
			acrossALoss(t, l, l.connected(t, l.target()))
		},
		"Pool": func(t *testing.T) {
			l := newLab(t, netlab.Config{NAT: true})
			acrossALoss(t, l, l.pooled(t, 2, nil))
		},
	})
}

func acrossALoss(t *testing.T, l *lab, cc grpc.ClientConnInterface) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends := map[string]func() error{}
	for name, begin := range kinds(l, cc) {
		end, err := begin(ctx)
		require.NoError(t, err, name)
		ends[name] = end
	}
	lost := time.Now()
	l.ForgetNAT()
	failed := make(chan error)
	for _, end := range ends {
		go func() { failed <- end() }()
	}
	for range ends {
		err := within(t, failed, 30*time.Second)
		assert.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	}
	t.Logf("all have failed %d ms after the loss", time.Since(lost).Milliseconds())
	assert.LessOrEqual(t, time.Since(lost), l.limit(lost, labWithin+time.Second))

	close(l.srv.block)
	for name, begin := range kinds(l, cc) {
		end, err := begin(ctx)
		require.NoError(t, err, name)
		assert.NoError(t, end(), name)
	}
}
