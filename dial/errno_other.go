//go:build !unix && !windows

package dial

// errnoAdvice knows nothing about this system's errors.
func errnoAdvice(network string, err error) string { return "" }
