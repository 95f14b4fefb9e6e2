package backstage

import (
	"context"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// homeKey is the key of a dial's own namespace, an *os.File.
type homeKey struct{}

const threadNamespace = "/proc/thread-self/ns/net"

// dialsFrom returns a Trace that has all dials happen in a host's network
// namespace, and a function that ends that. It works since the dial of an address
// stays on one goroutine, with its first and its last hook.
func dialsFrom(h *netlab.Host) (*dial.Trace, func(), error) {
	var there *os.File
	if err := h.Do(func() (err error) {
		there, err = os.Open(threadNamespace)
		return err
	}); err != nil {
		return nil, nil, err
	}
	start := func(ctx context.Context, _ dial.DialStart) context.Context {
		runtime.LockOSThread()
		home, err := os.Open(threadNamespace)
		if err != nil {
			runtime.UnlockOSThread()
			return ctx // the dial will fail: nobody listens here
		}
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			_ = home.Close()
			return ctx
		}
		return context.WithValue(ctx, homeKey{}, home)
	}
	done := func(ctx context.Context, _ dial.DialDone) {
		home, ok := ctx.Value(homeKey{}).(*os.File)
		if !ok {
			return
		}
		defer home.Close()
		// A thread that can't go home stays locked, and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}
	return &dial.Trace{DialStart: start, DialDone: done}, func() { _ = there.Close() }, nil
}
