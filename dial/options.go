package dial

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// setOptions sets everything that c, which is complete, says about sockets on a
// socket that is not connected yet. What the system doesn't have is skipped.
func (c *Config) setOptions(fd uintptr) error {
	ka := sockopt.KeepAlive{
		Enable:   c.KeepAlive.Enable,
		Idle:     c.KeepAlive.Idle,
		Interval: c.KeepAlive.Interval,
		Count:    c.KeepAlive.Count,
	}
	errs := []error{sockopt.SetKeepAlive(fd, ka)}
	if c.UserTimeout > 0 {
		errs = append(errs, sockopt.SetUserTimeout(fd, c.UserTimeout))
	}
	if c.FastUnreachable {
		errs = append(errs, sockopt.SetRecvErr(fd, true))
	}
	if c.ReadBuffer > 0 {
		errs = append(errs, sockopt.SetReadBuffer(fd, c.ReadBuffer))
	}
	if c.WriteBuffer > 0 {
		errs = append(errs, sockopt.SetWriteBuffer(fd, c.WriteBuffer))
	}
	for _, err := range errs {
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return nil
}

// control is setOptions for package net, which calls it for every socket with
// tcp4, tcp6 or unix.
func (c *Config) control(network string, rc syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var opErr error
	if err := rc.Control(func(fd uintptr) { opErr = c.setOptions(fd) }); err != nil {
		return &controlError{err}
	}
	if opErr != nil {
		return &controlError{opErr}
	}
	return nil
}

// controlContext is control, followed by the user's own.
func (c *Config) controlContext(ctx context.Context, network, address string, rc syscall.RawConn) error {
	if err := c.control(network, rc); err != nil {
		return err
	}
	if c.Control == nil {
		return nil
	}
	if err := c.Control(ctx, network, address, rc); err != nil {
		return &controlError{fmt.Errorf("Config.Control: %w", err)}
	}
	return nil
}
