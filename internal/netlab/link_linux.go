package netlab

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"
)

// activate makes the current namespace's ends of cables whose other ends came
// up later usable at once. Until the kernel has noticed in its own time, which
// takes long where much is going on, it throws away what is sent. Changing the
// queue's length makes it look.
func activate(devices ...string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("netlab: %w", os.NewSyscallError("socket", err))
	}
	defer syscall.Close(fd)
	for _, name := range devices {
		var req struct {
			name   [syscall.IFNAMSIZ]byte
			length int32
			_      [20]byte
		}
		copy(req.name[:], name)
		req.length = 500 // anything but a new device's 1000
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), siocSIfTxQLen, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("netlab: setting the queue length of %s: %w", name, os.NewSyscallError("ioctl", errno))
		}
	}
	return nil
}

// awaitAddrs waits until the current namespace answers to its IPv6 addresses:
// ip has returned by then, but the kernel completes the work in its own time,
// and until then neither resolves nor accepts them.
func awaitAddrs(addrs ...netip.Addr) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(500 * time.Microsecond) {
		b, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
		if err != nil {
			return fmt.Errorf("netlab: %w", err)
		}
		missing := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
			return bytes.Contains(b, fmt.Appendf(nil, "%x 80 ", a.AsSlice()))
		})
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("netlab: the addresses %v are not usable after 10s", missing)
		}
	}
}

const siocSIfTxQLen = 0x8943 // from linux/sockios.h; package syscall hasn't got it
