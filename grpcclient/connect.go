package grpcclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/holdfast-go/holdfast/health"
)

// connector is what gRPC calls to connect.
type connector struct {
	connect health.DialFunc
	proxy   func(*http.Request) (*url.URL, error)
	opened  func(net.Conn)
}

// dial connects to an address in the form in which gRPC hands it to dialers:
// host:port, or a Unix socket as unix:path, unix:///path, unix:@name or, with a
// zero byte, \x00name.
func (c *connector) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := c.reach(ctx, address)
	if err == nil && c.opened != nil {
		c.opened(conn)
	}
	return conn, err
}

func (c *connector) reach(ctx context.Context, address string) (net.Conn, error) {
	if path, ok := unixPath(address); ok {
		return c.connect(ctx, "unix", path)
	}
	r, ok := routeOf(ctx)
	if !ok {
		var err error
		if r.proxy, err = proxyOf(c.proxy, address); err != nil {
			return nil, err
		}
	}
	if r.proxy == nil {
		return c.persist(ctx, address, r.name)
	}
	conn, err := c.persist(ctx, withPort(r.proxy.Host), nil)
	if err != nil {
		return nil, fmt.Errorf("grpcclient: connecting to the proxy for %s: %w", address, err)
	}
	if err := tunnel(ctx, conn, address, r.proxy.User); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func unixPath(address string) (path string, ok bool) {
	if strings.HasPrefix(address, "\x00") {
		return address, true
	}
	path, ok = strings.CutPrefix(address, "unix:")
	return strings.TrimPrefix(path, "//"), ok
}

// Between two attempts to connect: less than what the kernel lets pass before it
// sends a SYN again, which it does ever more seldom, and from which a path that
// works again would have to wait.
const (
	impatience = 500 * time.Millisecond
	jitter     = 100 * time.Millisecond
)

// persist connects, and sends a fresh SYN whenever the last one has gone unanswered
// for a while. Beside the newest attempt the first one goes on, for paths on which
// an answer takes longer than that, and it is the one whose failure counts: of
// three at most, the others end as canceled, which is what a dial.Trace is told.
// Meanwhile the name that the address was found for may have got another, so it is
// looked up again.
func (c *connector) persist(ctx context.Context, address string, name *lookups) (net.Conn, error) {
	var running sync.WaitGroup
	defer running.Wait()
	attempts, over := make(chan attempt), make(chan struct{})
	defer close(over)
	try := func(ctx context.Context, first bool) {
		conn, err := c.connect(ctx, "tcp", address)
		select {
		case attempts <- attempt{conn, err, first}:
		case <-over:
			if err == nil {
				conn.Close()
			}
		}
	}
	// Only the first one's time runs out with ctx.
	others, cancelOthers := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelOthers()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	running.Go(func() { try(ctx, true) })
	pause := time.NewTimer(pauseNow())
	defer pause.Stop()
	for {
		select {
		case a := <-attempts:
			if a.err == nil || a.first {
				return a.conn, a.err
			}
		case <-pause.C:
			running.Go(func() {
				ctx, cancel := context.WithCancel(others)
				defer time.AfterFunc(impatience+jitter, cancel).Stop()
				defer cancel()
				try(ctx, false)
			})
			if name != nil {
				name.ResolveNow(resolver.ResolveNowOptions{})
			}
			pause.Reset(pauseNow())
		}
	}
}

func pauseNow() time.Duration { return impatience + rand.N(jitter) }

// attempt is what came of one.
type attempt struct {
	conn  net.Conn
	err   error
	first bool
}
