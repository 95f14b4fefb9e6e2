package httpclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"
)

// body is a response's. It tells when that has ended.
type body struct {
	io.ReadCloser
	req    *http.Request
	conn   *conn
	cancel context.CancelCauseFunc
	over   atomic.Bool

	prev, next *body // in the connection's list, under its lock
	kept       bool
}

// timeOutWithin is how long an http.Client may take to notice its own Timeout.
const timeOutWithin = 10 * time.Millisecond

// letTimeOut lets an http.Client notice that its Timeout is over before it is told
// that the request's deadline is: the two are the same, and its error says which
// of them it noticed. It needn't be done for RoundTrippers of net/http.
func letTimeOut(req *http.Request, err error) {
	if legacyCancel(req) == nil || !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	enough := time.NewTimer(timeOutWithin)
	defer enough.Stop()
	select {
	case <-legacyCancel(req):
	case <-enough.C:
	}
}

// legacyCancel is Request.Cancel, which is deprecated, but which an http.Client
// sets for RoundTrippers that it doesn't know.
func legacyCancel(req *http.Request) <-chan struct{} {
	//lint:ignore SA1019 see above
	return req.Cancel //nolint:staticcheck // see above
}

// errDone ends the context of a request whose response was read.
var errDone = errors.New("httpclient: the response was read")

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		b.finish(ended{})
	} else if !b.over.Load() {
		err = b.conn.host.client.explain(b.conn, err)
		b.finish(ended{err: err})
		letTimeOut(b.req, err)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.finish(ended{spoiled: true})
	return err
}

func (b *body) finish(e ended) {
	if b.over.Swap(true) {
		return
	}
	now := b.conn.done(e, b)
	if b.cancel != nil {
		b.cancel(errDone)
	}
	b.conn.host.leave(now)
}

// outgoing is a request with what is needed to send it again.
type outgoing struct {
	req     *http.Request
	tracked *tracked      // its body, if that is to be known
	current io.ReadCloser // the body of the present attempt
	begun   bool
}

func (o *outgoing) empty() bool { return o.req.Body == nil || o.req.Body == http.NoBody }

// plainBody reports whether a body may be closed twice, as net/http's ClientConn
// may leave it open or not, and should not be wrapped on HTTP/1: net/http sends
// files and what is in memory in better ways there.
func plainBody(b io.ReadCloser) bool {
	if _, ok := b.(*os.File); ok {
		return true
	}
	t := reflect.TypeOf(b)
	return t == typeNopCloser || t == typeNopCloserWriterTo
}

var (
	typeNopCloser         = reflect.TypeOf(io.NopCloser(nil))
	typeNopCloserWriterTo = reflect.TypeOf(io.NopCloser(strings.NewReader("")))
)

// again makes sure that the body can be had once more, after an attempt.
func (o *outgoing) again() bool {
	switch {
	case o.empty(), o.req.GetBody != nil, !o.begun:
		return true
	case o.tracked != nil && o.tracked.revoke():
		o.tracked = &tracked{ReadCloser: o.tracked.ReadCloser}
		o.current = o.tracked
		return true
	}
	return false
}

// next returns the request for the next attempt, on a connection that several
// requests share or not.
func (o *outgoing) next(shares bool) (*http.Request, error) {
	if o.begun && !o.empty() && o.req.GetBody != nil {
		o.close()
		b, err := o.req.GetBody()
		if err != nil {
			return nil, err
		}
		o.tracked, o.current = nil, b
	}
	o.begun = true
	if o.empty() {
		return o.req, nil
	}
	if o.tracked == nil && (shares || !plainBody(o.current)) {
		o.tracked = &tracked{ReadCloser: o.current}
		o.current = o.tracked
	}
	if o.current == o.req.Body {
		return o.req, nil
	}
	req := *o.req
	req.Body = o.current
	return &req, nil
}

// close closes the body, if that wasn't done.
func (o *outgoing) close() {
	switch {
	case o.tracked != nil:
		o.tracked.closeNow()
	case !o.empty():
		_ = o.current.Close()
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// tracked is a request's body. While nobody has read from it, and nobody has
// answered, it is not closed either, so that it can be sent after all.
type tracked struct {
	io.ReadCloser
	state  atomic.Uint32
	wanted atomic.Bool // to be closed
	closed atomic.Bool
}

const (
	untouched uint32 = iota
	inUse            // read, or not to be sent again anyway
	revoked          // by somebody who will send it again
)

var errRevoked = errors.New("httpclient: this attempt is over")

func (t *tracked) Read(p []byte) (int, error) {
	if t.state.Load() != inUse && !t.state.CompareAndSwap(untouched, inUse) && t.state.Load() == revoked {
		return 0, errRevoked
	}
	return t.ReadCloser.Read(p)
}

func (t *tracked) Close() error {
	t.wanted.Store(true)
	if t.state.Load() == inUse {
		return t.closeNow()
	}
	return nil
}

// revoke reports whether nobody has read, and nobody will.
func (t *tracked) revoke() bool { return t.state.CompareAndSwap(untouched, revoked) }

// settle is called when the request needs no other attempt.
func (t *tracked) settle() {
	if t.state.CompareAndSwap(untouched, inUse) && t.wanted.Load() {
		_ = t.closeNow()
	}
}

func (t *tracked) closeNow() error {
	if t.closed.Swap(true) {
		return nil
	}
	return t.ReadCloser.Close()
}
