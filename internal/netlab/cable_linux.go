package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// cable is a cable that this process carries the packets through, because not
// every kernel can delay them: a TAP device at each end, and two pumps.
type cable struct {
	ends          [2]*os.File
	delay, jitter atomic.Int64
	stop          chan struct{}
	wg            sync.WaitGroup
}

// frame is what waits in a cable until it is due.
type frame struct {
	due  time.Time
	data []byte
}

const (
	frameSize  = 2048  // more than any frame that the devices' MTU allows
	frameLimit = 10000 // what a cable holds per direction before it drops
)

func newCable(router, host *namespace, routerDevice string) (*cable, error) {
	a, err := openTAP(router, routerDevice)
	if err != nil {
		return nil, err
	}
	b, err := openTAP(host, device)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	c := &cable{ends: [2]*os.File{a, b}, stop: make(chan struct{})}
	c.pump(a, b)
	c.pump(b, a)
	return c, nil
}

// set changes the delay of frames that come in from now on.
func (c *cable) set(delay, jitter time.Duration) {
	c.delay.Store(int64(delay))
	c.jitter.Store(int64(jitter))
}

// close pulls the cable out; both devices are gone then.
func (c *cable) close() {
	close(c.stop)
	for _, f := range c.ends {
		_ = f.Close()
	}
	c.wg.Wait()
}

func (c *cable) pump(from, to *os.File) {
	queue := make(chan frame, frameLimit)
	c.wg.Go(func() {
		defer close(queue)
		c.receive(from, queue)
	})
	c.wg.Go(func() { c.send(to, queue) })
}

// receive never lets a frame overtake another one.
func (c *cable) receive(from *os.File, queue chan<- frame) {
	var last time.Time
	buf := make([]byte, frameSize)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		due := time.Now().Add(time.Duration(c.delay.Load()))
		if j := c.jitter.Load(); j > 0 {
			due = due.Add(time.Duration(rand.Int64N(j)))
		}
		if due.Before(last) {
			due = last
		}
		last = due
		select {
		case queue <- frame{due: due, data: append([]byte(nil), buf[:n]...)}:
		default: // the queue of a real cable's ends is limited, too
		}
	}
}

func (c *cable) send(to *os.File, queue <-chan frame) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range queue {
		if wait := time.Until(f.due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-c.stop:
				return
			}
		}
		// A device that is down refuses the frame; so be it.
		if _, err := to.Write(f.data); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

func openTAP(ns *namespace, name string) (*os.File, error) {
	var f *os.File
	err := ns.do(func() error {
		fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("netlab: %w", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err})
		}
		var req struct {
			name  [syscall.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(req.name[:], name)
		req.flags = syscall.IFF_TAP | syscall.IFF_NO_PI
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
			_ = syscall.Close(fd)
			return fmt.Errorf("netlab: making device %s: %w", name, os.NewSyscallError("ioctl", errno))
		}
		f = os.NewFile(uintptr(fd), "/dev/net/tun") // not before it is a device, or it can't be polled
		return nil
	})
	return f, err
}
