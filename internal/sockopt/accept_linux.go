package sockopt

// AcceptInherits reports whether accepted sockets have the options of their
// listener.
const AcceptInherits = true
