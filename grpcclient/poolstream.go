package grpcclient

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// NewStream begins a streaming call, as grpc.ClientConn's does. It counts as in
// flight until it ends as gRPC demands: its context ends, RecvMsg returns an
// error, or the only message of a server that doesn't stream. An interceptor that
// begins further streams must do so within Header, RecvMsg, SendMsg or CloseSend of
// the one it has returned: between these a connection that was replaced may be
// closed.
func (p *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c, err := p.acquire(ctx, true)
	if err != nil {
		return nil, err
	}
	c.pins.Add(1)
	defer p.unpin(c)
	s := &stream{conn: c}
	defer func() {
		if s.begun.CompareAndSwap(false, true) {
			s.end(nil) // no interceptor let it come to count
		}
	}()
	got, err := c.cc.NewStream(context.WithValue(ctx, streamKey{}, s), desc, method, opts...)
	if err != nil || got == nil || got == grpc.ClientStream(s) {
		return got, err
	}
	return &dressed{got, c}, nil
}

// streamKey is where NewStream hands over the stream that it has counted.
type streamKey struct{}

// count is the innermost interceptor: it counts a stream until it ends.
func (c *conn) count(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (_ grpc.ClientStream, err error) {
	s, ok := ctx.Value(streamKey{}).(*stream)
	if !ok || s.conn != c || !s.begun.CompareAndSwap(false, true) {
		c.calls.Add(1) // one more: an interceptor's doing
		s = &stream{conn: c}
	}
	s.ctx = ctx
	defer func() {
		if s.ClientStream == nil { // it fails, or panics
			s.end(nil)
		}
	}()
	inner, err := streamer(ctx, desc, cc, method, append(opts[:len(opts):len(opts)], grpc.OnFinish(s.end))...)
	if err != nil {
		return nil, c.verdict(ctx, err)
	}
	s.ClientStream = inner
	return s, nil
}

// stream is one that counts.
type stream struct {
	grpc.ClientStream
	conn         *conn
	ctx          context.Context // the caller's
	begun, ended atomic.Bool
}

// end is told at least once that it has ended.
func (s *stream) end(error) {
	if !s.ended.Swap(true) {
		s.conn.pool.release(s.conn)
	}
}

func (s *stream) RecvMsg(m any) error {
	return s.conn.verdict(s.ctx, s.ClientStream.RecvMsg(m))
}

func (s *stream) SendMsg(m any) error {
	return s.conn.verdict(s.ctx, s.ClientStream.SendMsg(m))
}

// verdict is err, but of a call that was cut off, which to gRPC looks as if the
// caller had cancelled it.
func (c *conn) verdict(ctx context.Context, err error) error {
	if err == nil || !c.cut.Load() || status.Code(err) != codes.Canceled || ctx.Err() != nil {
		return err
	}
	return status.Errorf(codes.Unavailable, "grpcclient: the connection was replaced %v ago and is closed as MaxConnDrain is over",
		time.Since(c.replaced).Round(time.Millisecond))
}

// dressed is a stream of which an interceptor has made something of its own: it
// may repeat it, in any of these.
type dressed struct {
	grpc.ClientStream
	conn *conn
}

func (d *dressed) Header() (metadata.MD, error) {
	d.conn.pins.Add(1)
	defer d.conn.pool.unpin(d.conn)
	return d.ClientStream.Header()
}

func (d *dressed) RecvMsg(m any) error {
	d.conn.pins.Add(1)
	defer d.conn.pool.unpin(d.conn)
	return d.ClientStream.RecvMsg(m)
}

func (d *dressed) SendMsg(m any) error {
	d.conn.pins.Add(1)
	defer d.conn.pool.unpin(d.conn)
	return d.ClientStream.SendMsg(m)
}

func (d *dressed) CloseSend() error {
	d.conn.pins.Add(1)
	defer d.conn.pool.unpin(d.conn)
	return d.ClientStream.CloseSend()
}
