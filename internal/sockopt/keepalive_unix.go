//go:build linux || darwin || dragonfly || freebsd || netbsd

package sockopt

import "golang.org/x/sys/unix"

const (
	soKeepAlive  = unix.SO_KEEPALIVE
	tcpKeepIntvl = unix.TCP_KEEPINTVL
	tcpKeepCnt   = unix.TCP_KEEPCNT
)

// SetsKeepAlive reports whether SetKeepAlive does all that this system can. If
// not, package net knows how to do more.
func SetsKeepAlive() bool { return true }
