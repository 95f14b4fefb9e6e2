// Package holdfast is the root of a module that keeps a program's outbound
// connections alive, finds the dead ones before the program does, and replaces
// them. It holds no code; the packages below it do:
//
//   - [github.com/holdfast-go/holdfast/dial] opens connections on which a
//     vanished peer is noticed within a time that you choose, idle or busy,
//     and tells what is in force on any connection.
//   - [github.com/holdfast-go/holdfast/pool] keeps connections of any type,
//     hands out none that the kernel knows to be dead, and never exceeds its
//     limit.
//   - [github.com/holdfast-go/holdfast/health] says what an error means for a
//     connection and its siblings, whether a retry is safe, watches sockets
//     for their death, and asks peers whether they are there.
//
// Start with the dialer, which is one line in most clients:
//
//	d, err := dial.New(dial.Config{DetectWithin: 10 * time.Second})
//	transport.DialContext = d.DialContext
package holdfast
