//go:build linux || darwin || dragonfly || freebsd || netbsd

package sockopt

import "golang.org/x/sys/unix"

const (
	soKeepAlive  = unix.SO_KEEPALIVE
	tcpKeepIntvl = unix.TCP_KEEPINTVL
	tcpKeepCnt   = unix.TCP_KEEPCNT
)
