package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// site is where the servers listen and how their clients get there: through a
// small network of namespaces whose router can be told to drop packets, or else
// over the loopback interface.
type site struct {
	lab   *netlab.Lab
	noLab string        // why there is none
	guard *health.Guard // one that dials in the lab; nil: the dialers' own will do
	trace *dial.Trace   // takes dials there
	leave func()
}

func newSite(wanted bool, fail func(error)) (*site, error) {
	if !wanted {
		return &site{noLab: "-namespaces=false"}, nil
	}
	lab, err := netlab.Start(netlab.Config{Fail: fail})
	if errors.Is(err, errors.ErrUnsupported) {
		why := strings.TrimPrefix(err.Error(), "netlab: ")
		return &site{noLab: strings.TrimSuffix(why, " ("+errors.ErrUnsupported.Error()+")")}, nil
	}
	if err != nil {
		return nil, err
	}
	s := &site{lab: lab}
	if s.trace, s.leave, err = dialsFrom(lab.Client); err != nil {
		lab.Close()
		return nil, err
	}
	if s.guard, err = health.NewGuard(health.GuardConfig{Dial: lab.Client.Dialer(nil)}); err != nil {
		s.leave()
		lab.Close()
		return nil, err
	}
	return s, nil
}

func (s *site) String() string {
	if s.lab == nil {
		return "the loopback interface"
	}
	return fmt.Sprintf("two network namespaces with a router between them (%s to %s)", s.lab.Client.IPv4(), s.lab.Server.IPv4())
}

func (s *site) close() {
	if s.lab != nil {
		s.guard.Close()
		s.leave()
		s.lab.Close()
	}
}

// dial leads a dial function to the site.
func (s *site) dial(f dialFunc) dialFunc {
	if s.lab == nil {
		return f
	}
	return s.lab.Client.Dialer(f)
}

// listener returns a function that listens at the same address each time, and
// that address.
func (s *site) listener(port int) (listen func() (net.Listener, error), addr string, err error) {
	if s.lab != nil {
		addr = s.lab.Server.Addr(port)
		return func() (ln net.Listener, err error) {
			err = s.lab.Server.Do(func() (err error) {
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
