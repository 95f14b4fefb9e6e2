//go:build !linux

package netlab

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// namespace can't be made here.
type namespace struct{ file *os.File }

func newNamespace() (*namespace, error) {
	return nil, unsupported("network namespaces need Linux; this is " + runtime.GOOS)
}

func (*namespace) close()                                {}
func (*namespace) visit() (func(), error)                { return nil, errClosed }
func (*namespace) start(*exec.Cmd) error                 { return errClosed }
func setReadBuffer(ln *net.TCPListener, bytes int) error { return errClosed }
func readOnly(error) bool                                { return false }
func activate(...string) error                           { return errClosed }
func awaitAddrs(...netip.Addr) error                     { return errClosed }
func stopped(int) (bool, error)                          { return false, errClosed }
func signalStop(*os.Process) error                       { return errClosed }
func signalContinue(*os.Process) error                   { return errClosed }

// cable can't be laid here.
type cable struct{}

func newCable(_, _ *namespace, _ string) (*cable, error) { return nil, errClosed }

func (*cable) set(_, _ time.Duration) {}
func (*cable) close()                 {}
