package netlab

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"time"
)

// awaitLinks waits, in the current namespace, until the kernel has noticed that
// its cables are plugged in at both ends. It does so in its own time, and until
// then throws away what is sent.
func awaitLinks(names ...string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		ready, err := readyLinks()
		if err != nil {
			return err
		}
		missing := 0
		for _, name := range names {
			if !ready[name] {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("netlab: %d of the links %v have not come up in 10s", missing, names)
		}
	}
}

func readyLinks() (map[string]bool, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("netlab: reading links: %w", os.NewSyscallError("netlink", err))
	}
	msgs, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("netlab: reading links: %w", err)
	}
	ready := make(map[string]bool)
	for i := range msgs {
		if msgs[i].Header.Type != syscall.RTM_NEWLINK {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&msgs[i])
		if err != nil {
			return nil, fmt.Errorf("netlab: reading links: %w", err)
		}
		var name, qdisc string
		for _, a := range attrs {
			value := string(bytes.TrimRight(a.Value, "\x00"))
			switch a.Attr.Type {
			case syscall.IFLA_IFNAME:
				name = value
			case syscall.IFLA_QDISC:
				qdisc = value
			}
		}
		ready[name] = qdisc != "" && qdisc != "noop"
	}
	return ready, nil
}
