// Http shows what package httpclient does when servers and networks break, in
// less than a minute:
//
//	go run ./examples/http
//
// Workers send requests, with a deadline each, to a server that is built in: by
// an ordinary http.Transport, by one that httpclient.NewTransport has made, and by
// an httpclient.Client, each over HTTP/1.1 and over HTTP/2. Meanwhile the program
// restarts the server, has it close idle connections, and resets connections; as
// root on Linux it also makes the network forget flows and drop packets, in
// network namespaces of its own. It ends with a table of what each fault cost.
// The exit code is 0 if holdfast kept its promises, 1 if it broke one, 2 if the
// show could not be held, and 130 if it was interrupted.
//
// The lines to copy are in the functions newTransport and newClient.
package main

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/httpclient"
)

// newTransport is the first level: an http.Transport, for an http.Client of your
// own. A program of yours needs no dialer for it, only DetectWithin: here that
// leads into a network namespace.
func newTransport(d *dial.Dialer, base *http.Transport) (*http.Transport, error) {
	return httpclient.NewTransport(httpclient.TransportConfig{
		Dialer:    d,
		Transport: base, // for its TLSClientConfig
	})
}

// newClient is the second level: an http.RoundTripper that has an http.Client,
// and is to be closed.
func newClient(d *dial.Dialer, base *http.Transport) (*httpclient.Client, error) {
	return httpclient.New(httpclient.Config{
		Dialer:    d,
		Transport: base,
	})
}

func main() { backstage.Main(start) }

// options are what the flags set, and tests.
type options struct {
	backstage.Options
	pace pace
}

// start is main without its globals.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{backstage.Options{Workers: 8, Detect: 2 * time.Second, Lab: true}, defaultPace}
	return backstage.Program{
		Name:  "http",
		About: "Shows what HTTP requests survive.",
		Flags: o.Flags,
		Check: o.Check,
		Show:  func(ctx context.Context, out io.Writer) (int, error) { return show(ctx, o, out) },
	}.Start(ctx, args, stdout, stderr)
}
