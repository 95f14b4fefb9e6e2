package dial_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/holdfast-go/holdfast/dial"
)

func ExampleInspect() {
	ln := serve()
	defer ln.Close()

	// Any connection will do, here one with package net's defaults.
	var d net.Dialer
	c, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	s, err := dial.Inspect(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("keep-alive", dial.KeepAlive(s.KeepAlive))
	fmt.Println("idle", s.DetectIdle)
	fmt.Println("busy", s.DetectBusy)
	// Output:
	// keep-alive 15s:15s:9
	// idle 2m30s
	// busy 15m24.6s
}

// A dialer knows its guard, so that its Inspect says more.
func ExampleDialer_Inspect() {
	ln := serve()
	defer ln.Close()

	d, err := dial.New(dial.Config{DetectWithin: 8 * time.Second, SlowReaders: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	c, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	s, err := d.Inspect(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("user timeout", s.UserTimeout)
	fmt.Println("busy", s.DetectBusy)
	fmt.Println("guard:", s.Guard.State, "and fresh for", s.Guard.FreshFor)
	// Output:
	// user timeout 0s
	// busy 8s
	// guard: alive and fresh for 4s
}
