package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// Probe asks whether c is fit for use, on the connection that the traffic uses.
// It returns nil if so. It is bounded by ctx, leaves nothing unread and no
// deadline behind, and is called only while nobody else uses c. After an error
// c is of no further use.
type Probe = func(ctx context.Context, c net.Conn) error

// TCP is a [Probe] that asks only this machine's kernel what it knows about c,
// through TLS and other wrappers that have a NetConn method: whether a FIN or an
// RST was received, a time limit expired, or bytes wait that nobody asked for
// ([ErrUnread], not under TLS). It sends nothing, never waits and needs no
// protocol, and it works on Unix sockets as well.
//
// It does not see a peer that became silent, nor a process that hangs behind a
// kernel that answers.
func TCP(ctx context.Context, c net.Conn) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, layered := sockopt.Unwrap(c)
	err := sockopt.Control(c, func(fd uintptr) error {
		err, _ := sniff(fd, layered)
		return err
	})
	if err != nil {
		return fmt.Errorf("health: tcp probe: %w", err)
	}
	return nil
}

// withDeadline runs f while c obeys ctx, and leaves c without a deadline. If f
// fails when ctx has ended, ctx's error goes with f's.
func withDeadline(ctx context.Context, c net.Conn, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline() // none is the zero time, which clears what was left behind
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	wait := func() {}
	if ctx.Done() != nil {
		done := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(done)
			_ = c.SetDeadline(time.Unix(1, 0))
		})
		wait = func() {
			if !stop() {
				<-done
			}
		}
	}
	err := f()
	wait()
	if err != nil {
		ctxErr := ctx.Err()
		if ctxErr == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			ctxErr = context.DeadlineExceeded // there is no other deadline; its timer is a bit late
		}
		if ctxErr != nil {
			err = fmt.Errorf("%w: %w", ctxErr, err)
		}
		_ = c.SetDeadline(time.Time{})
		return err
	}
	return c.SetDeadline(time.Time{})
}
