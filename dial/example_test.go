package dial_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/health"
)

// serve accepts connections and keeps them open.
func serve() net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		var conns []net.Conn // which garbage collection would close
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.Close()
		}
	}()
	return ln
}

func Example() {
	ln := serve()
	defer ln.Close()

	d, err := dial.New(dial.Config{DetectWithin: 10 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	ctx := context.Background()
	c, err := d.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Printf("%T\n", c)
	// Output: *net.TCPConn
}

func ExampleNew_mistake() {
	_, err := dial.New(dial.Config{
		UserTimeout: 30 * time.Second,
		KeepAlive:   net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3},
	})
	fmt.Println(err)
	// Output: dial: Config.UserTimeout is 30s but Config.KeepAlive, in whole seconds, says 15s + 3 × 15s = 1m, and the kernel ignores the count beside a user timeout: set UserTimeout to 1m, or zero
}

func ExampleDialer_Config() {
	d, err := dial.New(dial.Config{DetectWithin: 30 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := d.Config()
	fmt.Println("keep-alive", dial.KeepAlive(cfg.KeepAlive))
	fmt.Println("user timeout", cfg.UserTimeout)
	fmt.Println("dial timeout", cfg.Timeout)
	// Output:
	// keep-alive 12s:6s:3
	// user timeout 30s
	// dial timeout 15s
}

func ExampleDialer_DialContext_http() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()

	d, err := dial.New(dial.HighlyAvailable())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = d.DialContext
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 404 Not Found
}

func ExampleDialer_ListenConfig() {
	d, err := dial.New(dial.RarelyUsed())
	if err != nil {
		fmt.Println(err)
		return
	}
	ln, err := d.ListenConfig().Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	fmt.Printf("%T\n", ln)
	// Output: *net.TCPListener
}

func ExampleDetectionTime() {
	show := func(ka net.KeepAliveConfig, userTimeout time.Duration) {
		idle, busy := dial.DetectionTime(ka, userTimeout)
		fmt.Printf("idle %v, busy %v\n", idle, busy)
	}
	show(net.KeepAliveConfig{Enable: true}, 0) // package net's defaults
	ka := net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}
	show(ka, 0)
	show(ka, 30*time.Second) // the count is ignored now
	// Output:
	// idle 2m30s, busy 15m24.6s
	// idle 11s, busy 15m24.6s
	// idle 31s, busy 30s
}

func ExampleKeepAlive() {
	var ka dial.KeepAlive
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	fs.Var(&ka, "keepalive", "on, off or idle:interval:count")
	if err := fs.Parse([]string{"-keepalive", "30m::10"}); err != nil {
		fmt.Println(err)
		return
	}
	d, err := dial.New(dial.Config{KeepAlive: net.KeepAliveConfig(ka)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(dial.KeepAlive(d.Config().KeepAlive), d.Config().DetectWithin)
	// Output: 30m:2s:10 30m20s
}

func ExampleParseKeepAlive() {
	_, err := dial.ParseKeepAlive("500ms::10")
	fmt.Println(err)
	// Output: dial: keep-alive "500ms::10": idle: 500ms is not in whole seconds, which the kernel counts
}

func ExampleJoin() {
	ln := serve()
	defer ln.Close()

	timing := &dial.Trace{DialDone: func(_ context.Context, d dial.DialDone) { fmt.Println("took some time:", d.Duration > 0) }}
	logging := &dial.Trace{
		ConnectStart: func(_ context.Context, s dial.ConnectStart) { fmt.Println("connecting with", s.Network) },
		DialDone:     func(_ context.Context, d dial.DialDone) { fmt.Println("error:", d.Err) },
	}
	d, err := dial.New(dial.Config{Trace: dial.Join(timing, logging)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	c, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		return
	}
	defer c.Close()
	// Output:
	// connecting with tcp
	// took some time: true
	// error: <nil>
}

// One guard for two dialers: what one learns about an address helps the other.
func ExampleConfig_guard() {
	guard, err := health.NewGuard(health.GuardConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer guard.Close() // after the last dial
	near, err := dial.New(dial.Config{DetectWithin: 5 * time.Second, Guard: guard})
	if err != nil {
		fmt.Println(err)
		return
	}
	far, err := dial.New(dial.Config{DetectWithin: 20 * time.Second, RTOMax: 3 * time.Second, Guard: guard})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(near.Guard() == far.Guard())
	// Output: true
}

// What the guard has ended, and why.
func ExampleTrace_connState() {
	_, err := dial.New(dial.Config{Trace: &dial.Trace{ConnState: func(s health.StateChange) {
		if s.Severed {
			fmt.Println("lost", s.Remote, "after", s.Silent, "of silence:", s.Cause)
		}
	}}})
	fmt.Println(err)
	// Output: <nil>
}
