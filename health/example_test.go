package health_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/health"
)

func ExampleClassify() {
	// Both say Timeout() == true.
	byKernel := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	byDeadline := &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	fmt.Println(health.Classify(byKernel), health.Classify(byDeadline))
	// Output: path canceled
}

func ExampleGuard() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	guard, err := health.NewGuard(health.GuardConfig{})
	if err != nil {
		panic(err)
	}
	defer guard.Close()

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		panic(err)
	}
	defer c.Close()
	died := make(chan error, 1)
	w, err := guard.Watch(c, nil, func(w *health.Watch) { died <- w.Cause() })
	if err != nil {
		panic(err)
	}
	defer w.Stop()

	fmt.Println(w.Dead(), w.Sniff())
	server, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	server.Close()
	<-died // nobody reads from c
	fmt.Println(w.Dead())
	// Output:
	// false <nil>
	// true
}

// The connection's owner, here a client library, needs to know nothing of it.
func ExampleGuard_Watch_policy() {
	guard, err := health.NewGuard(health.GuardConfig{})
	if err != nil {
		panic(err)
	}
	defer guard.Close()
	policy, err := health.NewPolicy(health.PolicyConfig{
		DetectWithin: 5 * time.Second,
		Dial:         (&net.Dialer{}).DialContext, // to tell a lost connection from a lost server
		StateChanged: func(c health.StateChange) {
			fmt.Println(c.Remote, "is", c.To, "after", c.Silent, "of silence:", c.Cause)
		},
	})
	if err != nil {
		panic(err)
	}

	var dialer net.Dialer
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				_, err = guard.Watch(c, policy, nil)
			}
			return c, err
		},
	}}
	defer client.CloseIdleConnections()
}

func ExampleProbe() {
	var probe health.Probe = health.RedisPing
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		server.Read(make([]byte, 100))
		server.Write([]byte("-LOADING Redis is loading the dataset in memory\r\n"))
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	fmt.Println(probe(ctx, client))
	// Output: health: redis ping: LOADING Redis is loading the dataset in memory
}
