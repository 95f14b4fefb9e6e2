package backstage

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/netlab/labdial"
)

// Site is where the servers listen and how their clients get there: through a
// small network of namespaces whose router can be told to drop packets, or else
// over the loopback interface. It is to be closed.
type Site struct {
	// Lab is the network; nil: there is none, for the reason NoLab.
	Lab   *netlab.Lab
	NoLab string

	guard *health.Guard
	trace *dial.Trace // takes dials into the lab
}

// NewSite makes a site with so many servers; wanted says whether it shall have a
// lab if that is possible. What goes wrong in the lab later, fail is told, from any
// goroutine. An error is what kept a lab from working that is possible.
func NewSite(wanted bool, servers int, fail func(error)) (*Site, error) {
	if !wanted {
		return &Site{NoLab: "-namespaces=false"}, nil
	}
	lab, err := netlab.Start(netlab.Config{Servers: servers, Fail: fail})
	if errors.Is(err, errors.ErrUnsupported) {
		why := strings.TrimPrefix(err.Error(), "netlab: ")
		return &Site{NoLab: strings.TrimSuffix(why, " ("+errors.ErrUnsupported.Error()+")")}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &Site{Lab: lab, trace: labdial.From(lab.Client)}
	if s.guard, err = health.NewGuard(health.GuardConfig{Dial: lab.Client.Dialer(nil)}); err != nil {
		lab.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the lab, after the connections through it.
func (s *Site) Close() {
	if s.Lab != nil {
		s.guard.Close()
		s.Lab.Close()
	}
}

// String says what the site is.
func (s *Site) String() string {
	if s.Lab == nil {
		return "the loopback interface"
	}
	if n := len(s.Lab.Servers); n > 1 {
		return fmt.Sprintf("%d network namespaces with a router between them (%s to %s …)", n+1, s.Lab.Client.IPv4(), s.Lab.Server.IPv4())
	}
	return fmt.Sprintf("two network namespaces with a router between them (%s to %s)", s.Lab.Client.IPv4(), s.Lab.Server.IPv4())
}

// Dial has a dial function's dials happen at the site's client. One that dials on
// goroutines of its own needs Dialer instead.
func (s *Site) Dial(f health.DialFunc) health.DialFunc {
	if s.Lab == nil {
		return f
	}
	return s.Lab.Client.Dialer(f)
}

// Guard returns one that dials at the site's client; nil: that takes no special
// one.
func (s *Site) Guard() *health.Guard { return s.guard }

// Dialer returns holdfast's dialer, whose dials happen at the site's client. It is
// to be closed, after its connections and before the site.
func (s *Site) Dialer(detectWithin time.Duration) (*dial.Dialer, error) {
	return dial.New(dial.Config{DetectWithin: detectWithin, Guard: s.guard, Trace: s.trace})
}

// Listener returns a function that listens at the same address each time, and
// that address: at the given one of the lab's servers, from 0, and port, or on any
// port of the loopback interface if there is no lab. The function may have to try
// again, since the port could be taken for an outgoing connection meanwhile, and
// does so for two seconds.
func (s *Site) Listener(server, port int) (listen func() (net.Listener, error), addr string, err error) {
	if s.Lab != nil {
		host := s.Lab.Servers[server]
		addr = host.Addr(port)
		return func() (ln net.Listener, err error) {
			err = host.Do(func() (err error) {
				ln, err = listenAgain(addr)
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
	return func() (net.Listener, error) { return listenAgain(addr) }, addr, ln.Close()
}

func listenAgain(addr string) (net.Listener, error) {
	return patiently(func() (net.Listener, error) { return net.Listen("tcp", addr) })
}

// patience is how long a port may be taken.
const patience = 2 * time.Second

func patiently(listen func() (net.Listener, error)) (net.Listener, error) {
	for giveUp := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if ln, err := listen(); err == nil || time.Now().After(giveUp) {
			return ln, err
		}
	}
}
