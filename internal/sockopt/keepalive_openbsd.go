package sockopt

import "golang.org/x/sys/unix"

// SetKeepAlive sets SO_KEEPALIVE. OpenBSD has the times and the count for the
// whole system only, so that asking for others is unsupported.
func SetKeepAlive(fd uintptr, ka KeepAlive) error {
	on := 0
	if ka.Enable {
		on = 1
	}
	if err := set(fd, "SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, on); err != nil {
		return err
	}
	if ka.Idle > 0 || ka.Interval > 0 || ka.Count > 0 {
		return missing("keep-alive times")
	}
	return nil
}

// GetKeepAlive returns whether keep-alive is on, with errors.ErrUnsupported for
// the rest.
func GetKeepAlive(fd uintptr) (KeepAlive, error) {
	on, err := get(fd, "SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	if err != nil {
		return KeepAlive{}, err
	}
	return KeepAlive{Enable: on != 0}, missing("keep-alive times")
}

// SetsKeepAlive reports whether SetKeepAlive does all that this system can. If
// not, package net knows how to do more.
func SetsKeepAlive() bool { return true }
