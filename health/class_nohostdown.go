//go:build aix || js || wasip1

package health

import "syscall"

// Package syscall doesn't know these here; no call returns the numbers.
const (
	errHostDown = syscall.Errno(1 << 16)
	errShutdown = syscall.Errno(1<<16 + 1)
)
