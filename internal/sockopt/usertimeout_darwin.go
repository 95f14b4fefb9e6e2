package sockopt

import (
	"time"

	"golang.org/x/sys/unix"
)

// SetUserTimeout sets TCP_RXT_CONNDROPTIME, in seconds; 0 is the kernel's own
// limit.
func SetUserTimeout(fd uintptr, d time.Duration) error {
	n, ok := units(d, time.Second)
	if !ok {
		return wrap("setsockopt", "TCP_RXT_CONNDROPTIME", unix.EINVAL, false)
	}
	return set(fd, "TCP_RXT_CONNDROPTIME", unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, n)
}

// UserTimeout returns TCP_RXT_CONNDROPTIME; 0 is the kernel's own limit.
func UserTimeout(fd uintptr) (time.Duration, error) {
	n, err := get(fd, "TCP_RXT_CONNDROPTIME", unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME)
	return time.Duration(n) * time.Second, err
}
