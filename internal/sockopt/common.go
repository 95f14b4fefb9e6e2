//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd || windows

package sockopt

// SetNoDelay sets TCP_NODELAY.
func SetNoDelay(fd uintptr, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return set(fd, "TCP_NODELAY", ipprotoTCP, tcpNoDelay, value)
}

// NoDelay returns TCP_NODELAY.
func NoDelay(fd uintptr) (bool, error) {
	n, err := get(fd, "TCP_NODELAY", ipprotoTCP, tcpNoDelay)
	return n != 0, err
}

// SetReadBuffer sets SO_RCVBUF. Linux doubles the value, caps it at
// net.core.rmem_max and stops tuning the buffer itself.
func SetReadBuffer(fd uintptr, bytes int) error {
	return set(fd, "SO_RCVBUF", solSocket, soRcvBuf, bytes)
}

// ReadBuffer returns SO_RCVBUF.
func ReadBuffer(fd uintptr) (int, error) { return get(fd, "SO_RCVBUF", solSocket, soRcvBuf) }

// SetWriteBuffer sets SO_SNDBUF. Linux doubles the value, caps it at
// net.core.wmem_max and stops tuning the buffer itself.
func SetWriteBuffer(fd uintptr, bytes int) error {
	return set(fd, "SO_SNDBUF", solSocket, soSndBuf, bytes)
}

// WriteBuffer returns SO_SNDBUF.
func WriteBuffer(fd uintptr) (int, error) { return get(fd, "SO_SNDBUF", solSocket, soSndBuf) }
