package httpclient_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/httpclient"
)

func greet(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }

// A Transport that is used like any other.
func ExampleNewTransport() {
	server := httptest.NewServer(http.HandlerFunc(greet))
	defer server.Close()

	dialer, err := dial.New(dial.Config{DetectWithin: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer dialer.Close()
	transport, err := httpclient.NewTransport(httpclient.TransportConfig{Dialer: dialer})
	if err != nil {
		log.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}

	resp, err := client.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Print(string(body))
	fmt.Println(err, transport.IdleConnTimeout, transport.HTTP2.SendPingTimeout)
	// Output:
	// hello
	// <nil> 55s 15s
}

// A Transport of one's own keeps what it has set.
func ExampleNewTransport_own() {
	transport, err := httpclient.NewTransport(httpclient.TransportConfig{
		Transport: &http.Transport{MaxIdleConnsPerHost: 7},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(transport.MaxIdleConnsPerHost, transport.IdleConnTimeout)
	// Output:
	// 7 55s
}

// A Client repeats what may be repeated, and tells what it has done.
func ExampleNew() {
	server := httptest.NewServer(http.HandlerFunc(greet))
	defer server.Close()

	c, err := httpclient.New(httpclient.Config{DetectWithin: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	client := c.HTTPClient()
	client.Timeout = 5 * time.Second

	for range 3 {
		resp, err := client.Get(server.URL)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Print(string(body))
		if err != nil {
			log.Fatal(err)
		}
	}
	for _, host := range c.Stat().Hosts {
		fmt.Println(host.Requests, "requests,", host.Conns.Opened, "connection,", c.Stat().Retries, "sent again")
	}
	// Output:
	// hello
	// hello
	// hello
	// 3 requests, 1 connection, 0 sent again
}
