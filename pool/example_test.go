package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
)

// upper is a server that sends back every line in capitals.
func upper() (addr string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := serve(ln, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			for _, b := range lines.Bytes() {
				c.Write([]byte{b - 'a' + 'A'})
			}
			io.WriteString(c, "\n")
		}
	})
	return ln.Addr().String(), s.stop
}

func Example() {
	addr, stop := upper()
	defer stop()

	d, err := dial.New(dial.Config{DetectWithin: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	p, err := pool.New(pool.Config[net.Conn]{
		Open:     func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) },
		MaxConns: 16,
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer p.Close(ctx)

	err = p.Do(ctx, func(_ context.Context, c net.Conn) error {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return err
		}
		reply, err := bufio.NewReader(c).ReadString('\n')
		fmt.Print(reply)
		return err
	})
	fmt.Println(err)
	// Output:
	// HELLO
	// <nil>
}

// A pool of something that is not a net.Conn, such as a client of your own:
// NetConn lets the pool watch the socket below it.
func ExampleConfig_netConn() {
	addr, stop := upper()
	defer stop()

	type client struct {
		conn  net.Conn
		lines *bufio.Reader
	}
	p, err := pool.New(pool.Config[*client]{
		Open: func(ctx context.Context) (*client, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return &client{c, bufio.NewReader(c)}, nil
		},
		NetConn: func(c *client) net.Conn { return c.conn },
	})
	if err != nil {
		panic(err)
	}
	defer p.Close(context.Background())

	c, err := p.Acquire(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(c.Value().conn, "hello")
	reply, err := c.Value().lines.ReadString('\n')
	fmt.Print(reply)
	c.Fail(err) // nil, so the same as c.Release()
	fmt.Println(p.Stat().Idle, "idle")
	// Output:
	// HELLO
	// 1 idle
}

// After a failover the old primary answers, but refuses to write. A Classify
// that says so makes the pool open all connections anew.
func ExampleConfig_classify() {
	errReadOnly := errors.New("cannot execute UPDATE in a read-only transaction")
	opened := 0
	p, err := pool.New(pool.Config[*int]{
		Open:  func(context.Context) (*int, error) { opened++; return new(opened), nil },
		Close: func(*int) error { return nil },
		Classify: func(err error) health.Class {
			if errors.Is(err, errReadOnly) {
				return health.Role
			}
			return health.Classify(err)
		},
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	defer p.Close(ctx)
	use := func(result error) {
		err := p.Do(ctx, func(_ context.Context, c *int) error {
			fmt.Println("on connection", *c)
			return result
		})
		fmt.Println(err)
	}
	use(nil)
	use(errReadOnly)
	use(nil)
	// Output:
	// on connection 1
	// <nil>
	// on connection 1
	// cannot execute UPDATE in a read-only transaction
	// on connection 2
	// <nil>
}

// What a caller is told when no connection can be had.
func ExampleAcquireError() {
	p, err := pool.New(pool.Config[net.Conn]{
		MaxConns: 2,
		Open:     func(context.Context) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
	})
	if err != nil {
		panic(err)
	}
	defer p.Close(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Acquire(ctx)
	fmt.Println(errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ECONNREFUSED))
	fmt.Println(health.SafeToRetry(err))
	// Output:
	// true true
	// true
}
