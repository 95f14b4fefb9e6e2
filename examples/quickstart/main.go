// Quickstart shows what holdfast does when the network breaks, in half a
// minute and in front of your eyes:
//
//	go run ./examples/quickstart
//
// Workers send commands to a Redis server through a holdfast pool, and as many
// workers send the same commands through an ordinary pool, puddle with a
// net.Dialer. Meanwhile the program restarts the server, resets connections,
// closes idle ones and hangs the server; as root on Linux it also makes the
// network swallow packets without a word, in network namespaces of its own. It
// ends with a table of what each fault cost either side. The exit code is 0 if
// holdfast kept its promises, 1 if it broke one, 2 if the show could not be
// held, and 130 if it was interrupted.
//
// A Redis server is built in. With REDIS_ADDR=host:port a real one is used
// instead: all faults happen in front of it, the server itself is never
// touched, and the few keys that the workers write are deleted in the end.
//
// The lines to copy are in the function newPool.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

// newPool is what a program of your own would do, but that there you would
// call d.DialContext directly, and leave Guard out: here via takes the dials
// into a network namespace, the guard's own as well.
func newPool(addr string, conns int, detect time.Duration, trace *pool.Trace, via func(health.DialFunc) health.DialFunc, guard *health.Guard) (*pool.Pool[*client], error) {
	d, err := dial.New(dial.Config{DetectWithin: detect})
	if err != nil {
		return nil, err
	}
	connect := via(d.DialContext)
	return pool.New(pool.Config[*client]{
		Open: func(ctx context.Context) (*client, error) {
			c, err := connect(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return newClient(c), nil
		},
		Ping:         func(ctx context.Context, c *client) error { return health.RedisPing(ctx, c.socket) },
		MaxConns:     conns,
		DetectWithin: detect,
		Guard:        guard,
		Trace:        trace,
	})
}

// client is a connection to Redis: redigo speaks the protocol, the socket
// below is the dialer's. By its NetConn method the pool finds the socket.
type client struct {
	redis.ConnWithContext
	socket net.Conn
	born   time.Time
}

func newClient(c net.Conn) *client {
	return &client{redis.NewConn(c, 0, 0).(redis.ConnWithContext), c, time.Now()}
}

func (c *client) NetConn() net.Conn { return c.socket }

func main() { backstage.Main(start) }

// start is main without its globals.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{redis: os.Getenv("REDIS_ADDR"), pace: defaultPace}
	return backstage.Program{
		Name:  "quickstart",
		About: "Shows what connections survive. REDIS_ADDR=host:port uses that Redis server instead of a built-in one.",
		Flags: o.flags,
		Check: o.check,
		Show:  func(ctx context.Context, out io.Writer) (int, error) { return show(ctx, o, out) },
	}.Start(ctx, args, stdout, stderr)
}

func (o *options) flags(flags *flag.FlagSet) {
	flags.IntVar(&o.workers, "workers", 16, "`number` of workers on each side, and of connections each pool may have; 4 or more")
	flags.DurationVar(&o.detect, "detect", 2*time.Second, "holdfast's DetectWithin: how long a silent network may stay unnoticed; 2s or more; longer makes the show longer")
	flags.BoolVar(&o.plain, "plain", true, "put an ordinary pool beside holdfast")
	flags.BoolVar(&o.lab, "namespaces", true, "drop packets in network namespaces, where that is possible: Linux, root, the commands ip and nft")
}

func (o *options) check() error {
	if o.workers < 4 || o.workers > 1000 {
		return fmt.Errorf("-workers is %d: it must be 4 to 1000", o.workers)
	}
	return nil
}
