//go:build linux || darwin || dragonfly || freebsd || netbsd || windows

package sockopt

import (
	"errors"
	"slices"
	"syscall"
	"time"
)

// SetKeepAlive sets the keep-alive state of a TCP socket. The order is: on or
// off, Count, Interval, Idle, because a new Idle re-arms the kernel's timer. It
// tries all of them, so that what one system lacks keeps nothing else from being
// set. The error is errors.ErrUnsupported only if nothing worse happened.
func SetKeepAlive(fd uintptr, ka KeepAlive) error {
	on := 0
	if ka.Enable {
		on = 1
	}
	if err := set(fd, "SO_KEEPALIVE", solSocket, soKeepAlive, on); err != nil {
		return err
	}
	var count error
	if ka.Count > 0 {
		count = set(fd, "TCP_KEEPCNT", ipprotoTCP, tcpKeepCnt, min(ka.Count, 1<<31-1))
	}
	return join(
		count,
		setSeconds(fd, "TCP_KEEPINTVL", tcpKeepIntvl, ka.Interval),
		setSeconds(fd, "TCP_KEEPIDLE", tcpKeepIdle, ka.Idle),
	)
}

// join is errors.Join, but leaves out what is merely unsupported if there is
// anything else: the result must not pass for unsupported then.
func join(errs ...error) error {
	all := errors.Join(errs...)
	if all == nil {
		return nil
	}
	unsupported := func(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
	if worse := errors.Join(slices.DeleteFunc(errs, unsupported)...); worse != nil {
		return worse
	}
	return all
}

func setSeconds(fd uintptr, option string, opt int, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	n, ok := units(d, time.Second)
	if !ok {
		return wrap("setsockopt", option, syscall.EINVAL, false)
	}
	return set(fd, option, ipprotoTCP, opt, n)
}

// GetKeepAlive returns the keep-alive state of a TCP socket. With an error only
// Enable is of use.
func GetKeepAlive(fd uintptr) (KeepAlive, error) {
	on, err := get(fd, "SO_KEEPALIVE", solSocket, soKeepAlive)
	if err != nil {
		return KeepAlive{}, err
	}
	idle, err1 := get(fd, "TCP_KEEPIDLE", ipprotoTCP, tcpKeepIdle)
	interval, err2 := get(fd, "TCP_KEEPINTVL", ipprotoTCP, tcpKeepIntvl)
	count, err3 := get(fd, "TCP_KEEPCNT", ipprotoTCP, tcpKeepCnt)
	if err := join(err1, err2, err3); err != nil {
		return KeepAlive{Enable: on != 0}, err
	}
	return KeepAlive{
		Enable:   on != 0,
		Idle:     time.Duration(idle) * time.Second,
		Interval: time.Duration(interval) * time.Second,
		Count:    count,
	}, nil
}
