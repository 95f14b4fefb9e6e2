//go:build !linux && !darwin && !windows

package sockopt

import "time"

// SetUserTimeout is unsupported on this system.
func SetUserTimeout(fd uintptr, d time.Duration) error { return missing("user timeout") }

// UserTimeout is unsupported on this system.
func UserTimeout(fd uintptr) (time.Duration, error) { return 0, missing("user timeout") }
