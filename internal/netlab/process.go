package netlab

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Process is a child process whose sockets belong to a host. It is killed when
// the test ends, when the host is rebooted, and by the kernel when this process
// ends in whatever way.
//
// Its methods may be called concurrently.
type Process struct {
	// Stdin and Stdout are the test's ends of the pipes to a process started
	// with Helper; nil with Start. The kernel closes them with the process.
	Stdin  io.WriteCloser
	Stdout *bufio.Reader

	cmd  *exec.Cmd
	host *Host
	wait func() error
}

// Start starts cmd as a process of the host. It takes cmd.Start's place; the
// rest of cmd is the caller's, but for SysProcAttr.Pdeathsig. Nothing else may
// call cmd.Wait. (A short command needs no Start: run it in [Host.Do].)
func (h *Host) Start(t TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := h.start(cmd)
	if err != nil {
		t.Fatalf("netlab: starting %s on %s: %v", cmd.Path, h.name, err)
		return nil
	}
	t.Cleanup(p.Kill)
	return p
}

func (h *Host) start(cmd *exec.Cmd) (*Process, error) {
	ns, err := h.namespace()
	if err != nil {
		return nil, err
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = time.Second // for grandchildren that hold the output open
	}
	if err := ns.start(cmd); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, host: h, wait: sync.OnceValue(cmd.Wait)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.processes == nil {
		h.processes = make(map[*Process]struct{})
	}
	h.processes[p] = struct{}{}
	return p, nil
}

const helperEnv = "NETLAB_HELPER"

// Helper starts this test binary again, as a process of the host that runs only
// the test of the given name, which must call [HelperMain]. So a client or a
// server can be written beside the test, and be stopped or killed by it.
// Its standard error is this process's.
func (h *Host) Helper(t TB, name string, args ...string) *Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatalf("netlab: %v", err)
		return nil
	}
	in, stdin, err1 := os.Pipe()
	stdout, out, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatalf("netlab: %v", err)
		return nil
	}
	defer in.Close()
	defer out.Close()
	t.Cleanup(func() { stdin.Close(); stdout.Close() })
	cmd := exec.Command(exe, append([]string{"-test.run=^" + name + "$", "-test.count=1", "-test.timeout=0", "--"}, args...)...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	p := h.Start(t, cmd)
	if p != nil {
		p.Stdin, p.Stdout = stdin, bufio.NewReader(stdout)
	}
	return p
}

// HelperMain is what a test made for [Host.Helper] consists of. In the helper
// process it calls main with Helper's arguments and then exits with what main
// returns; otherwise it skips the test.
func HelperMain(t TB, main func(args []string) (exitCode int)) {
	t.Helper()
	if os.Getenv(helperEnv) == "" {
		t.Skipf("this is a process that other tests start")
		return
	}
	os.Exit(main(flag.Args()))
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Wait waits until the process ends by itself, and returns what cmd.Wait did.
func (p *Process) Wait() error {
	err := p.wait()
	p.host.mu.Lock()
	delete(p.host.processes, p)
	p.host.mu.Unlock()
	return err
}

// Kill kills the process and waits until it has ended. Its kernel lives on and
// closes the sockets: the peers receive a FIN, or an RST where bytes were left
// unread. A second Kill does nothing.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.Wait()
}

// Stop stops the process as SIGSTOP does: it hangs, while its kernel goes on
// acknowledging what the peers send, accepting connections until the backlog is
// full, and answering keep-alives. All its threads have stopped on return.
func (p *Process) Stop() {
	if err := p.stop(); err != nil {
		p.host.lab.fail(fmt.Errorf("netlab: stopping process %d: %w", p.Pid(), err))
	}
}

func (p *Process) stop() error {
	if err := signalStop(p.cmd.Process); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		done, err := stopped(p.Pid())
		if err != nil || done {
			return err
		}
		if time.Now().After(end) {
			return errors.New("it is still running after 10s")
		}
	}
}

// Continue lets a stopped process run again.
func (p *Process) Continue() {
	if err := signalContinue(p.cmd.Process); err != nil {
		p.host.lab.fail(fmt.Errorf("netlab: continuing process %d: %w", p.Pid(), err))
	}
}

// state finds the state in /proc/<pid>/stat, behind a name in parentheses that
// may itself contain anything.
func state(stat []byte) byte {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) {
		return 0
	}
	return stat[i+2]
}
