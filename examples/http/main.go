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
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/dial"
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

// The program's exit codes.
const (
	exitKept        = 0
	exitBroken      = 1
	exitFailed      = 2
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	code := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are what the flags set.
type options struct {
	workers int
	detect  time.Duration
	lab     bool
	pace    pace
}

// start is main without its globals.
func start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{pace: defaultPace}
	flags := flag.NewFlagSet("http", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.workers, "workers", 8, "`number` of workers on each side; 1 to 100")
	flags.DurationVar(&o.detect, "detect", 2*time.Second, "holdfast's DetectWithin: how long a silent network may stay unnoticed; 2s to 4s")
	flags.BoolVar(&o.lab, "namespaces", true, "break a network of namespaces, where that is possible: Linux, root, the commands ip and nft")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: http [flags]\n\nShows what HTTP requests survive.\n\n")
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return exitKept
	case err != nil:
		return exitFailed // the flag package has said why
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "http: unknown argument %q\n", flags.Arg(0))
		return exitFailed
	}
	if o.workers < 1 || o.workers > 100 {
		fmt.Fprintf(stderr, "http: -workers is %d: it must be 1 to 100\n", o.workers)
		return exitFailed
	}
	if o.detect < 2*time.Second || o.detect > 4*time.Second {
		fmt.Fprintf(stderr, "http: -detect is %v: it must be 2s to 4s\n", o.detect)
		return exitFailed
	}
	code, err := show(ctx, o, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "http:", err)
	}
	return code
}
