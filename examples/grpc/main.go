// Grpc shows what package grpcclient does when a server or a network breaks, in
// less than a minute:
//
//	go run ./examples/grpc
//
// Workers make calls, with a deadline each, to a server that is built in: on an
// ordinary ClientConn, on one with grpcclient.DialOptions, and on a
// grpcclient.Pool. Meanwhile the program restarts the server; as root on Linux it
// also makes the network drop packets and forget flows, in network namespaces of
// its own. It ends with a table of what each fault cost. The exit code is 0 if
// holdfast kept its promises, 1 if it broke one, 2 if the show could not be held,
// and 130 if it was interrupted.
//
// The lines to copy are in the functions withOptions and withPool.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/grpcclient"
)

// withOptions is a ClientConn of gRPC's own. A program of yours needs no dialer
// for it, only DetectWithin: here that leads into a network namespace.
func withOptions(target string, d *dial.Dialer) (*grpc.ClientConn, error) {
	opts, err := grpcclient.DialOptions(grpcclient.Config{Dialer: d})
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

// withPool is two connections, behind the interface that generated code wants.
func withPool(target string, d *dial.Dialer) (*grpcclient.Pool, error) {
	return grpcclient.NewPool(target, 2, grpcclient.PoolConfig{Config: grpcclient.Config{Dialer: d}},
		grpc.WithTransportCredentials(insecure.NewCredentials()))
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
	flags := flag.NewFlagSet("grpc", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.workers, "workers", 4, "`number` of workers on each side; 1 to 100")
	flags.DurationVar(&o.detect, "detect", 2*time.Second, "holdfast's DetectWithin: how long a silent network may stay unnoticed; 2s to 4s")
	flags.BoolVar(&o.lab, "namespaces", true, "break a network of namespaces, where that is possible: Linux, root, the commands ip and nft")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return exitKept
	case err != nil:
		return exitFailed // the flag package has said why
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "grpc: unknown argument %q\n", flags.Arg(0))
		return exitFailed
	case o.workers < 1 || o.workers > 100:
		fmt.Fprintf(stderr, "grpc: -workers is %d: it must be 1 to 100\n", o.workers)
		return exitFailed
	case o.detect < 2*time.Second || o.detect > 4*time.Second:
		fmt.Fprintf(stderr, "grpc: -detect is %v: it must be 2s to 4s\n", o.detect)
		return exitFailed
	}
	code, err := show(ctx, o, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "grpc:", err)
	}
	return code
}
