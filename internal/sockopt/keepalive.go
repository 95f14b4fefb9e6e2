//go:build linux || darwin || dragonfly || freebsd || netbsd || windows

package sockopt

import (
	"syscall"
	"time"
)

// SetKeepAlive sets the keep-alive state of a TCP socket. The order is: on or
// off, Count, Interval, Idle, because a new Idle re-arms the kernel's timer.
func SetKeepAlive(fd uintptr, ka KeepAlive) error {
	on := 0
	if ka.Enable {
		on = 1
	}
	if err := set(fd, "SO_KEEPALIVE", solSocket, soKeepAlive, on); err != nil {
		return err
	}
	if ka.Count > 0 {
		if err := set(fd, "TCP_KEEPCNT", ipprotoTCP, tcpKeepCnt, min(ka.Count, 1<<31-1)); err != nil {
			return err
		}
	}
	if err := setSeconds(fd, "TCP_KEEPINTVL", tcpKeepIntvl, ka.Interval); err != nil {
		return err
	}
	return setSeconds(fd, "TCP_KEEPIDLE", tcpKeepIdle, ka.Idle)
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

// GetKeepAlive returns the keep-alive state of a TCP socket.
func GetKeepAlive(fd uintptr) (KeepAlive, error) {
	on, err := get(fd, "SO_KEEPALIVE", solSocket, soKeepAlive)
	if err != nil {
		return KeepAlive{}, err
	}
	idle, err := get(fd, "TCP_KEEPIDLE", ipprotoTCP, tcpKeepIdle)
	if err != nil {
		return KeepAlive{}, err
	}
	interval, err := get(fd, "TCP_KEEPINTVL", ipprotoTCP, tcpKeepIntvl)
	if err != nil {
		return KeepAlive{}, err
	}
	count, err := get(fd, "TCP_KEEPCNT", ipprotoTCP, tcpKeepCnt)
	if err != nil {
		return KeepAlive{}, err
	}
	return KeepAlive{
		Enable:   on != 0,
		Idle:     time.Duration(idle) * time.Second,
		Interval: time.Duration(interval) * time.Second,
		Count:    count,
	}, nil
}
