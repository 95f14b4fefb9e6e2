// Package holdfast is the root of a module that keeps a program's outbound
// connections alive, finds the dead ones before the program does, and replaces
// them. The packages below it hold the code.
package holdfast
