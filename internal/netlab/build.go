package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// tools are the paths of the commands that labs run.
type tools struct{ ip, nft string }

func findTools() (tools, error) {
	ip, err1 := findTool("ip")
	nft, err2 := findTool("nft")
	if err := errors.Join(err1, err2); err != nil {
		return tools{}, unsupported(err.Error())
	}
	return tools{ip: ip, nft: nft}, nil
}

// findTool looks where administrators' commands are, too: sudo and su may leave
// a PATH without them.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", err
}

// unsupported says why this machine or user can't have labs.
func unsupported(reason string) error {
	return fmt.Errorf("netlab: %s (%w)", reason, errors.ErrUnsupported)
}

// run runs a command in the host's namespace with a script as its input.
func (h *Host) run(script string, files []*os.File, name string, args ...string) error {
	var out bytes.Buffer
	err := h.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(script)
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.ExtraFiles = files
		return cmd.Run()
	})
	if err != nil {
		return fmt.Errorf("netlab: %s: %s %s: %w\n%s%s", h.name, name, strings.Join(args, " "), err, out.Bytes(), script)
	}
	return nil
}

func (h *Host) ip(files []*os.File, lines ...string) error {
	return h.run(strings.Join(lines, "\n")+"\n", files, h.lab.tools.ip, "-batch", "-")
}

// build makes the namespaces and cables them.
func (l *Lab) build() error {
	hosts := l.hosts()
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			ns, err := newNamespace()
			if err != nil {
				errs[i] = err
				return
			}
			h.swap(ns)
			errs[i] = h.sysctl(h.settings())
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // they all say the same
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.plug(l.ends()...); err != nil {
		return err
	}
	if l.cfg.NAT {
		return l.track(l.Servers...)
	}
	return nil
}

// plug lays a cable from the router to each of the hosts and configures both
// ends. The caller holds l.mu.
func (l *Lab) plug(hosts ...*Host) error {
	router, err := l.Router.namespace()
	if err != nil {
		return err
	}
	lines := []string{"link set lo up"}
	var files []*os.File
	var devices []string
	var addrs []netip.Addr
	for _, h := range hosts {
		ns, err := h.namespace()
		if err != nil {
			return err
		}
		if h.path.pumped {
			if h.cable, err = newCable(router, ns, h.dev); err != nil {
				return err
			}
			h.cable.set(h.path.delay, h.path.jitter)
		} else {
			// Children find the i'th extra file as descriptor 3+i.
			lines = append(lines, fmt.Sprintf("link add %s type veth peer name %s netns /proc/self/fd/%d",
				h.dev, device, 3+len(files)))
			files = append(files, ns.file)
			devices = append(devices, h.dev)
		}
		lines = append(lines, h.routerEnd()...)
		addrs = append(addrs, addr6(h.num, 1))
	}
	if err := l.Router.ip(files, lines...); err != nil {
		return err
	}
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			errs[i] = h.ip(nil, h.hostEnd()...)
			if errs[i] == nil {
				errs[i] = h.Do(func() error { return awaitAddrs(h.IPv6()) })
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return router.do(func() error { return errors.Join(activate(devices...), awaitAddrs(addrs...)) })
}

// unplug pulls the host's cable out. The caller holds l.mu.
func (h *Host) unplug() error {
	// Closing a pumped cable isn't enough: for a moment, a process that is just
	// being forked elsewhere may hold it as well.
	if err := h.lab.Router.ip(nil, "link del "+h.dev); err != nil {
		return err
	}
	if h.cable != nil {
		h.cable.close()
		h.cable = nil
	}
	return nil
}

// device is what every host calls its end of the cable.
const device = "eth0"

func (h *Host) routerEnd() []string {
	net4, net6 := addr4(h.num, 0), addr6(h.num, 0)
	return []string{
		fmt.Sprintf("addr add %v/24 dev %s", addr4(h.num, 1), h.dev),
		fmt.Sprintf("addr add %v/64 dev %s nodad", addr6(h.num, 1), h.dev),
		fmt.Sprintf("link set %s up", h.dev),
		// While a host is unplugged the router must say nothing about it.
		fmt.Sprintf("route replace blackhole %v/24 metric 9999", net4),
		fmt.Sprintf("route replace blackhole %v/64 metric 9999", net6),
	}
}

func (h *Host) hostEnd() []string {
	lines := []string{
		"link set lo up",
		fmt.Sprintf("addr add %v/24 dev %s", h.IPv4(), device),
		fmt.Sprintf("addr add %v/64 dev %s nodad", h.IPv6(), device),
		fmt.Sprintf("link set %s up", device),
		fmt.Sprintf("route add default via %v", addr4(h.num, 1)),
		fmt.Sprintf("route add default via %v", addr6(h.num, 1)),
	}
	if h.lab.single {
		lines = append(lines, onePacket)
	}
	return lines
}

// onePacket stops the host's kernel from sending many segments as one.
const onePacket = "link set " + device + " gso_max_segs 1"

// singlePackets makes packets on the wire what they are on a real one, for
// faults that count them. It costs nine tenths of the throughput, so it isn't so
// from the beginning. The caller holds l.mu.
func (l *Lab) singlePackets() error {
	if l.single {
		return nil
	}
	l.single = true
	for _, h := range l.ends() {
		if err := h.ip(nil, onePacket); err != nil {
			return err
		}
	}
	return nil
}

// setting is a kernel setting below /proc/sys/net.
type setting struct {
	path, value string
	optional    bool // not every kernel has it
}

func (h *Host) settings() []setting {
	s := []setting{
		{path: "ipv6/conf/all/disable_ipv6", value: "0"},
		{path: "ipv6/conf/default/disable_ipv6", value: "0"},
		// Addresses must be usable at once.
		{path: "ipv6/conf/all/accept_dad", value: "0"},
		{path: "ipv6/conf/default/accept_dad", value: "0"},
		{path: "ipv6/conf/default/router_solicitations", value: "0"},
		{path: "ipv6/conf/default/accept_ra", value: "0"},
	}
	if h.dev != "" {
		return s
	}
	return append(s,
		setting{path: "ipv4/ip_forward", value: "1"},
		setting{path: "ipv6/conf/all/forwarding", value: "1"},
		// Every packet that the router refuses gets its ICMP message.
		setting{path: "ipv4/icmp_ratelimit", value: "0"},
		setting{path: "ipv4/icmp_msgs_per_sec", value: "1000000", optional: true},
		setting{path: "ipv4/icmp_msgs_burst", value: "1000000", optional: true},
		setting{path: "ipv6/icmp/ratelimit", value: "0"},
	)
}

func (h *Host) sysctl(settings []setting) error {
	return h.Do(func() error {
		for _, s := range settings {
			err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0)
			switch {
			case err == nil || s.optional:
			case readOnly(err):
				return unsupported(err.Error())
			default:
				return fmt.Errorf("netlab: %w", err)
			}
		}
		return nil
	})
}

func seconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}
