package netlab

import (
	"fmt"
	"time"
)

const defaultQueue = 50 * time.Millisecond

// lag makes the cable as long as the path says. The caller holds l.mu.
func (h *Host) lag() error {
	if h.cable == nil && h.path.delay == 0 && h.path.jitter == 0 {
		return nil
	}
	if h.cable == nil {
		if err := h.unplug(); err != nil {
			return err
		}
		h.path.pumped = true
		if err := h.lab.plug(h); err != nil {
			return err
		}
	}
	h.cable.set(h.path.delay, h.path.jitter)
	return nil
}

// limit makes both ends of the cable as slow as the path says. The caller holds
// l.mu.
func (h *Host) limit() error {
	if !h.path.limited && h.path.rate == 0 {
		return nil
	}
	tc, err := findTool("tc")
	if err != nil {
		return fmt.Errorf("netlab: Rate: %w", err)
	}
	ends := []struct {
		host *Host
		dev  string
	}{{h.lab.Router, h.dev}, {h, device}}
	for _, end := range ends {
		if h.path.limited {
			// It is not there if the cable is new.
			_ = end.host.run("", nil, tc, "qdisc", "del", "dev", end.dev, "root")
		}
		if h.path.rate == 0 {
			continue
		}
		// The bucket holds 10 ms, but one full packet at least.
		burst := max(h.path.rate/8/100, 2000)
		err := end.host.run("", nil, tc, "qdisc", "add", "dev", end.dev, "root", "tbf",
			"rate", fmt.Sprint(h.path.rate)+"bit", "burst", fmt.Sprint(burst), "latency", fmt.Sprint(h.path.queue.Microseconds())+"us")
		if err != nil {
			return err
		}
	}
	h.path.limited = h.path.rate > 0
	return nil
}
