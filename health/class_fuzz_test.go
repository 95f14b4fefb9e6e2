//go:build !plan9

package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// tree builds an error from a program: each byte is a leaf, or wraps, joins or
// relabels what is on the stack.
func tree(program []byte, text string) error {
	var stack []error
	pop := func() (err error) {
		if n := len(stack); n > 0 {
			err, stack = stack[n-1], stack[:n-1]
		}
		return err
	}
	leaves := []error{nil, io.EOF, net.ErrClosed, context.Canceled, os.ErrDeadlineExceeded, errors.New(text), sqlError(text),
		(*net.OpError)(nil), (*net.DNSError)(nil), (*net.AddrError)(nil), (*tls.CertificateVerificationError)(nil),
		&net.OpError{}, &net.DNSError{}, x509.HostnameError{Certificate: &x509.Certificate{}}, tls.RecordHeaderError{},
		net.UnknownNetworkError(text), &net.AddrError{Err: text, Addr: text}, safeError(true), uncomparable{text}}
	ops := []string{"dial", "read", "remote error", text}
	for _, b := range program {
		switch arg := int(b >> 3); b & 7 {
		case 0, 1:
			stack = append(stack, leaves[arg%len(leaves)])
		case 2:
			stack = append(stack, errno(arg))
		case 3:
			stack = append(stack, fmt.Errorf("%w", pop()))
		case 4:
			stack = append(stack, errors.Join(pop(), pop()))
		case 5:
			stack = append(stack, &net.OpError{Op: ops[arg%len(ops)], Err: pop()})
		case 6:
			stack = append(stack, &net.DNSError{UnwrapErr: pop(), Err: text})
		case 7:
			stack = append(stack, many{pop(), nil, pop()})
		}
	}
	return many(stack)
}

type many []error

func (m many) Error() string   { return "many" }
func (m many) Unwrap() []error { return m }

type uncomparable []string

func (u uncomparable) Error() string        { return u[0] }
func (u uncomparable) Is(target error) bool { return false }

func errno(n int) error { return os.NewSyscallError("call", syscall.Errno(n)) }

func FuzzClassify(f *testing.F) {
	f.Add([]byte{0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144}, "READONLY x")
	f.Add([]byte{2, 5, 13, 8, 4, 3, 6, 7}, "Error 1290 (HY000): --read-only")
	f.Add([]byte{40, 5, 21, 7}, "")
	f.Fuzz(func(t *testing.T, program []byte, text string) {
		if len(program) > 200 {
			return
		}
		err := tree(program, text)
		if c := Classify(err); c > Canceled {
			t.Errorf("%v of %v", c, err)
		}
		if Permanent(err) && Classify(err) == Path {
			t.Errorf("permanent and passing: %v", err)
		}
		if SafeToRetry(err) && !SafeToRetry(fmt.Errorf("wrapped: %w", err)) {
			t.Errorf("wrapping changes %v", err)
		}
		SafeToRetry(errors.New(text))
	})
}
