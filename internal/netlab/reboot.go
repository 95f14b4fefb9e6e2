package netlab

import "fmt"

// Reboot takes the host's power away and starts it again, in some milliseconds.
// Its cable is dead first, so that no FIN and no RST ever leaves; its sockets
// are gone, its processes and listeners are killed, and the connections that
// its listeners had accepted are closed. Then a new kernel answers at the same
// addresses: with an RST to whatever arrives for connections that it doesn't
// know, and to SYNs until somebody listens again. Faults in the path stay.
//
// Connections that the host itself had dialled in this process remain open
// there and lead nowhere.
func (h *Host) Reboot() {
	l := h.lab
	l.mu.Lock()
	err := h.isEnd()
	if err == nil {
		err = h.reboot()
	}
	l.mu.Unlock()
	if err != nil {
		l.fail(fmt.Errorf("netlab: rebooting %s: %w", h.name, err))
	}
}

func (h *Host) reboot() error {
	if _, err := h.namespace(); err != nil {
		return err
	}
	next, err := newNamespace() // first, because it takes the longest
	if err != nil {
		return err
	}
	if err := h.unplug(); err != nil {
		next.close()
		return err
	}
	h.clear()
	if old := h.swap(next); old != nil {
		old.close()
	}
	if err := h.sysctl(h.settings()); err != nil {
		return err
	}
	if err := h.lab.plug(h); err != nil {
		return err
	}
	return h.limit()
}

// ResetConns ends every connection that the host's listeners have accepted with
// an RST, at once: an application that aborts them, or a server whose process
// dies with unread bytes. The listeners go on.
func (h *Host) ResetConns() {
	h.mu.Lock()
	listeners := make([]*listener, 0, len(h.listeners))
	for ln := range h.listeners {
		listeners = append(listeners, ln)
	}
	h.mu.Unlock()
	for _, ln := range listeners {
		ln.reset()
	}
}
