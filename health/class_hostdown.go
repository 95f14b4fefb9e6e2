//go:build unix && !aix

package health

import "syscall"

const (
	errHostDown = syscall.EHOSTDOWN
	errShutdown = syscall.ESHUTDOWN
)
