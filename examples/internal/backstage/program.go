package backstage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The programs' exit codes.
const (
	ExitKept        = 0   // holdfast has kept its promises
	ExitBroken      = 1   // it has broken one
	ExitFailed      = 2   // the show could not be held
	ExitInterrupted = 130 // it was interrupted
)

// Verdict is how a show ends that was interrupted, that could not go on because of
// err, or in which so many promises were broken.
func Verdict(interrupt context.Context, err error, broken int) (code int, _ error) {
	switch {
	case interrupt.Err() != nil:
		return ExitInterrupted, errors.New("interrupted")
	case err != nil:
		return ExitFailed, err
	case broken > 0:
		return ExitBroken, nil
	}
	return ExitKept, nil
}

// Main runs a program until it ends or is interrupted, and exits with its code. A
// second Ctrl-C ends it at once.
func Main(start func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := start(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Program is a program as the user meets it.
type Program struct {
	Name  string
	About string              // what it does, for -h
	Flags func(*flag.FlagSet) // defines its flags
	Check func() error        // says what is wrong with their values
	Show  func(ctx context.Context, out io.Writer) (code int, err error)
}

// Start parses the arguments, holds the show, and returns the exit code.
func (p Program) Start(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	p.Flags(flags)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: %s [flags]\n\n%s\n\n", p.Name, p.About)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return ExitKept
	case err != nil:
		return ExitFailed // the flag package has said why
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "%s: unknown argument %q\n", p.Name, flags.Arg(0))
		return ExitFailed
	}
	if err := p.Check(); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return ExitFailed
	}
	code, err := p.Show(ctx, stdout)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
	}
	return code
}

// Options are what the flags set that several programs have.
type Options struct {
	Workers int           // on each side
	Detect  time.Duration // holdfast's DetectWithin
	Lab     bool          // network namespaces are wanted
}

// Flags defines the flags; the present values are their defaults.
func (o *Options) Flags(flags *flag.FlagSet) {
	flags.IntVar(&o.Workers, "workers", o.Workers, "`number` of workers on each side; 1 to 100")
	flags.DurationVar(&o.Detect, "detect", o.Detect, "holdfast's DetectWithin: how long a silent network may stay unnoticed; 2s to 4s")
	flags.BoolVar(&o.Lab, "namespaces", o.Lab, "break a network of namespaces, where that is possible: Linux, root, the commands ip and nft")
}

// Check says what is wrong with their values.
func (o *Options) Check() error {
	if o.Workers < 1 || o.Workers > 100 {
		return fmt.Errorf("-workers is %d: it must be 1 to 100", o.Workers)
	}
	if o.Detect < 2*time.Second || o.Detect > 4*time.Second {
		return fmt.Errorf("-detect is %v: it must be 2s to 4s", o.Detect)
	}
	return nil
}
