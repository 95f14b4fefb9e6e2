//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd && !windows

package sockopt

// SetKeepAlive is unsupported on this system.
func SetKeepAlive(fd uintptr, ka KeepAlive) error { return missing("keep-alive") }

// SetsKeepAlive reports whether SetKeepAlive does all that this system can. If
// not, package net knows how to do more.
func SetsKeepAlive() bool { return false }

// GetKeepAlive is unsupported on this system.
func GetKeepAlive(fd uintptr) (KeepAlive, error) { return KeepAlive{}, missing("keep-alive") }

// SetNoDelay is unsupported on this system.
func SetNoDelay(fd uintptr, on bool) error { return missing("TCP_NODELAY") }

// NoDelay is unsupported on this system.
func NoDelay(fd uintptr) (bool, error) { return false, missing("TCP_NODELAY") }

// SetReadBuffer is unsupported on this system.
func SetReadBuffer(fd uintptr, bytes int) error { return missing("SO_RCVBUF") }

// ReadBuffer is unsupported on this system.
func ReadBuffer(fd uintptr) (int, error) { return 0, missing("SO_RCVBUF") }

// SetWriteBuffer is unsupported on this system.
func SetWriteBuffer(fd uintptr, bytes int) error { return missing("SO_SNDBUF") }

// WriteBuffer is unsupported on this system.
func WriteBuffer(fd uintptr) (int, error) { return 0, missing("SO_SNDBUF") }

// IsTCP reports false: nothing can be asked of a socket here.
func IsTCP(fd uintptr) bool { return false }

// Peek is unsupported on this system.
func Peek(fd uintptr) (n int, err error) { return 0, missing("peek") }

// Poll is unsupported on this system.
func Poll(fd uintptr) (Events, error) { return 0, missing("poll") }
