// Package backstage has what the programs of this module share: how they print, pause
// and listen.
package backstage

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// Listener returns a function that listens at the same address each time, and
// that address: at the lab's server, or on loopback if lab is nil.
func Listener(lab *netlab.Lab, port int) (listen func() (net.Listener, error), addr string, err error) {
	if lab != nil {
		addr = lab.Server.Addr(port)
		return func() (ln net.Listener, err error) {
			err = lab.Server.Do(func() (err error) {
				ln, err = net.Listen("tcp", addr)
				return err
			})
			return ln, err
		}, addr, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	addr = ln.Addr().String()
	return func() (net.Listener, error) { return net.Listen("tcp", addr) }, addr, ln.Close()
}

// Sleep sleeps for d or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Short is a duration with two digits and a unit that suits it.
func Short(d time.Duration) string {
	switch {
	case d < 9950*time.Microsecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < 995*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// Wrap breaks a text into lines of at most width characters.
func Wrap(text, indent string, width int) string {
	var b strings.Builder
	n := width
	for _, word := range strings.Fields(text) {
		if n+1+len(word) > width {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(indent)
			n = len(indent)
		} else {
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String()
}
