//go:build unix || windows

package dial

import (
	"errors"
	"syscall"
)

// errnoAdvice says what commonly lies behind an errno of a failed dial. On
// Windows, sockets return WSA numbers, which package syscall names in part only;
// they are 10000 above these.
func errnoAdvice(network string, err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	if isUnix(network) {
		switch errno {
		case syscall.ECONNREFUSED, wsaECONNREFUSED:
			return "the socket's file is there but nothing listens on it: did the server die?"
		case syscall.EAGAIN:
			return "the server's queue of connections that it hasn't accepted yet is full"
		case syscall.EACCES, syscall.EPERM, wsaEACCES:
			return "the permissions of the socket's file or its directories forbid it"
		case syscall.ENOENT:
			return "no socket exists at that path: is the server running?"
		}
	}
	switch errno {
	case syscall.ECONNREFUSED, wsaECONNREFUSED:
		return "nothing listens on that port, or a firewall refuses"
	case syscall.ETIMEDOUT, wsaETIMEDOUT:
		return "the host is down, or a firewall drops the packets"
	case syscall.EHOSTUNREACH, wsaEHOSTUNREACH:
		return "no such host on its network, or no route to it"
	case syscall.ENETUNREACH, wsaENETUNREACH:
		return "this machine has no route there; is it an IPv6 address on a machine without IPv6?"
	case syscall.EMFILE, wsaEMFILE:
		return "this process may open no more files: raise its limit (ulimit -n) or open fewer connections"
	case syscall.ENFILE:
		return "this machine may open no more files"
	case syscall.EADDRNOTAVAIL, wsaEADDRNOTAVAIL:
		return "no local port is free for this peer: too many connections, or too many of them closed lately; or Config.LocalAddr is not this machine's"
	case syscall.EACCES, syscall.EPERM, wsaEACCES:
		return "a firewall or security policy of this machine forbids it, or a router or firewall on the way does (ICMPv6)"
	}
	return ""
}

// WSA numbers.
const (
	wsaEACCES        syscall.Errno = 10013
	wsaEMFILE        syscall.Errno = 10024
	wsaEADDRNOTAVAIL syscall.Errno = 10049
	wsaENETUNREACH   syscall.Errno = 10051
	wsaETIMEDOUT     syscall.Errno = 10060
	wsaECONNREFUSED  syscall.Errno = 10061
	wsaEHOSTUNREACH  syscall.Errno = 10065
)
