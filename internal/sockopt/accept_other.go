//go:build !linux

package sockopt

// AcceptInherits reports whether accepted sockets are known to have the options
// of their listener.
const AcceptInherits = false
