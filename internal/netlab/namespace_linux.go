package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
)

// namespace is an anonymous network namespace. It lives as long as the file
// that refers to it, the thread that made it, or a socket or process in it.
type namespace struct {
	file *os.File

	// The thread that made the namespace starts its processes: a process's
	// parent-death signal comes when the thread that forked it ends.
	calls chan func()
	quit  func()
	stop  chan struct{}
	ended chan struct{}
}

func newNamespace() (*namespace, error) {
	if setnsNumber() == 0 {
		return nil, unsupported("setns isn't known for " + runtime.GOARCH)
	}
	n := &namespace{calls: make(chan func()), stop: make(chan struct{}), ended: make(chan struct{})}
	n.quit = sync.OnceFunc(func() { close(n.stop) })
	ready := make(chan error)
	go n.serve(ready)
	if err := <-ready; err != nil {
		<-n.ended
		return nil, err
	}
	return n, nil
}

// serve keeps its thread locked to the end, so that the thread, which is of no
// use to anybody else, ends with it.
func (n *namespace) serve(ready chan<- error) {
	runtime.LockOSThread()
	if syscall.Gettid() == syscall.Getpid() {
		// The main thread can't end, and /proc/self would show its namespace.
		// While it is locked here, another goroutine must get another one.
		locked := make(chan error)
		go n.serve(locked)
		ready <- <-locked
		runtime.UnlockOSThread()
		return
	}
	defer close(n.ended)
	if err := n.open(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for {
		select {
		case f := <-n.calls:
			f()
		case <-n.stop:
			return
		}
	}
}

func (n *namespace) open() (err error) {
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
			return unsupported("making a network namespace: " + err.Error() + "; that takes root, or CAP_SYS_ADMIN and CAP_NET_ADMIN")
		}
		return fmt.Errorf("netlab: %w", os.NewSyscallError("unshare", err))
	}
	n.file, err = os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	return nil
}

func (n *namespace) close() {
	n.quit()
	<-n.ended
	_ = n.file.Close()
}

// visit is enter on a thread that the calling goroutine keeps until leave.
func (n *namespace) visit() (leave func(), err error) {
	runtime.LockOSThread()
	home, err := syscall.Open("/proc/thread-self/ns/net", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("netlab: %w", &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err})
	}
	leave = func() {
		// A thread that can't go home stays locked, and ends with its goroutine.
		if setns(uintptr(home)) == nil {
			runtime.UnlockOSThread()
		}
		_ = syscall.Close(home)
	}
	if err := n.enter(); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func (n *namespace) enter() error {
	rc, err := n.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = setns(fd) }); err != nil {
		return fmt.Errorf("netlab: entering a namespace: %w: %w", errClosed, err)
	}
	return inner
}

// start starts a process in the namespace that dies with this one.
func (n *namespace) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error, 1)
	select {
	case n.calls <- func() { done <- cmd.Start() }:
		return <-done
	case <-n.ended:
		return errClosed
	}
}

func setns(fd uintptr) error {
	_, _, errno := syscall.RawSyscall(setnsNumber(), fd, syscall.CLONE_NEWNET, 0)
	if errno != 0 {
		return fmt.Errorf("netlab: %w", os.NewSyscallError("setns", errno))
	}
	return nil
}

// setnsNumber is here because package syscall lacks it on the oldest two.
func setnsNumber() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 308
	case "386":
		return 346
	case "arm":
		return 375
	case "arm64", "riscv64", "loong64":
		return 268
	case "ppc64", "ppc64le":
		return 350
	case "s390x":
		return 339
	}
	return 0
}

func setReadBuffer(ln *net.TCPListener, bytes int) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		inner = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, bytes))
	})
	return errors.Join(err, inner)
}

func readOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)
}

// stopped reports whether every thread of a process is.
func stopped(pid int) (bool, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, task := range tasks {
		b, err := os.ReadFile(dir + "/" + task.Name() + "/stat")
		if err != nil {
			return false, err
		}
		if state(b) != 'T' {
			return false, nil
		}
	}
	return true, nil
}

func signalStop(p *os.Process) error     { return p.Signal(syscall.SIGSTOP) }
func signalContinue(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
