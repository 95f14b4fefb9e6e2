package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// RedisPing is a [Probe] that sends PING with a word of its own and waits for
// that word, in RESP2 or RESP3. Give it a ctx that ends: without one it waits for
// as long as the peer is silent. It reads not one byte more than the reply, so
// that the next command's reply is where its reader expects it.
//
// It asks whether this connection will do for the next command:
//
//   - The word: yes. So says also a server that answers NOPERM (the user may not
//     PING), BUSY (a script is running) or MISCONF (it can't save): it is alive
//     and knows who we are, and another connection would fare no better.
//   - NOAUTH, LOADING, MASTERDOWN, READONLY and any other error: no. The reply is
//     in the error's text, and [Classify] knows MASTERDOWN and READONLY as Role.
//   - Any other reply: no, because it belongs to somebody else's command. That
//     is also what a bare PONG is, so that behind a proxy that doesn't pass on
//     PING's argument, which Redis has known since 2.8, RedisPing fails.
//
// A connection that has subscribed to something may be asked as well. RESP3's
// push messages that come before the answer are read and thrown away; a
// connection that uses them (client-side caching) needs a probe of its own.
// RESP2's messages are replies like others, thus a no.
func RedisPing(ctx context.Context, c net.Conn) error {
	err := withDeadline(ctx, c, func() error { return redisPing(c) })
	if err != nil {
		return fmt.Errorf("health: redis ping: %w", err)
	}
	return nil
}

const (
	// redisShortest is the length of the shortest reply to a PING that doesn't
	// end the connection's use.
	redisShortest = len("-BUSY\r\n")

	// maxRedisLine bounds a line, maxRedisPush what comes before the reply, and
	// maxIdleReads how often a Read may return nothing.
	maxRedisLine = 64 << 10
	maxRedisPush = 16 << 20
	maxIdleReads = 100
)

var errRedisSyntax = errors.New("malformed reply")

func redisPing(c net.Conn) error {
	word := strconv.FormatUint(1<<63|rand.Uint64(), 16) // of 16 digits
	r := redisReader{c: c, buf: make([]byte, 0, 128)}
	if _, err := c.Write(append(r.buf, "*2\r\n$4\r\nPING\r\n$16\r\n"+word+"\r\n"...)); err != nil {
		return err
	}
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		switch line[0] {
		case '>', '|': // a push message or attributes, after which the reply is still to come
			if err := r.skipRest(line); err != nil {
				return err
			}
		case '-':
			return redisVerdict(string(line[1:]))
		case '*': // RESP2's while subscribed
			if string(line) != "*2" {
				return foreign(line)
			}
			if line, err = r.line(); err != nil {
				return err
			}
			if err := r.expect(line, "pong"); err != nil {
				return err
			}
			if line, err = r.line(); err != nil {
				return err
			}
			return r.expect(line, word)
		default:
			return r.expect(line, word)
		}
	}
}

func foreign(reply []byte) error {
	return fmt.Errorf("reply %.40q is not that of this PING", reply)
}

// expect reads the bulk string that line begins, and requires that it is text.
func (r *redisReader) expect(line []byte, text string) error {
	if string(line) != "$"+strconv.Itoa(len(text)) {
		return foreign(line)
	}
	for {
		have, size := r.buf[r.next:], len(text)+len("\r\n")
		if len(have) < size {
			if err := r.fill(size - len(have)); err != nil {
				return err
			}
			continue
		}
		if string(have[:size]) != text+"\r\n" {
			return foreign(have[:size])
		}
		r.next += size
		return nil
	}
}

// redisVerdict returns nil for errors that a better connection wouldn't cure.
func redisVerdict(reply string) error {
	switch code, _, _ := strings.Cut(reply, " "); code {
	case "NOPERM", "BUSY", "MISCONF":
		return nil
	}
	return errors.New(reply)
}

// redisReader reads lines and bulk data, never asking for more than is certain
// to come: what is missing of the current line, and the shortest reply if that
// hasn't begun.
type redisReader struct {
	c    net.Conn
	buf  []byte // what was read
	next int    // what of it was used
	used int    // in all
}

// fill reads up to n bytes more.
func (r *redisReader) fill(n int) error {
	if r.next > 0 {
		r.buf = r.buf[:copy(r.buf, r.buf[r.next:])]
		r.next = 0
	}
	if cap(r.buf) == len(r.buf) {
		r.buf = append(r.buf, 0)[:len(r.buf)]
	}
	n = min(n, cap(r.buf)-len(r.buf))
	for range maxIdleReads {
		got, err := r.c.Read(r.buf[len(r.buf) : len(r.buf)+n])
		r.buf = r.buf[:len(r.buf)+got]
		switch {
		case got > 0:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// line returns the next line without its end. It is valid until the next call.
func (r *redisReader) line() ([]byte, error) {
	for {
		have := r.buf[r.next:]
		if i := bytes.IndexByte(have, '\n'); i >= 0 {
			if i < 2 || have[i-1] != '\r' {
				return nil, errRedisSyntax
			}
			r.next += i + 1
			r.used += i + 1
			return have[:i-1], nil
		}
		if len(have) > maxRedisLine {
			return nil, errRedisSyntax
		}
		if err := r.fill(certain(have)); err != nil {
			return nil, err
		}
	}
}

// certain returns how many bytes must still come if have is the beginning of a
// line.
func certain(have []byte) int {
	switch {
	case len(have) == 0, have[0] != '+' && have[0] != '-':
		return redisShortest // of the line, or of the reply that follows it
	case have[len(have)-1] == '\r':
		return 1
	}
	return 2
}

// skip passes over n bytes, the answer not being among them.
func (r *redisReader) skip(n int) error {
	r.used += n
	for {
		have := len(r.buf) - r.next
		if have >= n {
			r.next += n
			return nil
		}
		r.next += have
		n -= have
		if err := r.fill(n); err != nil {
			return err
		}
	}
}

// skipRest passes over what belongs to the value that line begins.
func (r *redisReader) skipRest(line []byte) error {
	open := 1
	if line[0] == '|' {
		open = 0 // the value that the attributes are of is the reply
	}
	for {
		n, err := r.element(line)
		if err != nil {
			return err
		}
		if open += n - 1; open <= 0 {
			return nil
		}
		if r.used > maxRedisPush || open > maxRedisPush {
			return fmt.Errorf("more than %d bytes before the reply", maxRedisPush)
		}
		if line, err = r.line(); err != nil {
			return err
		}
	}
}

// element passes over the data of one value that line begins, and returns how
// many values belong to it.
func (r *redisReader) element(line []byte) (values int, err error) {
	n := 0
	switch line[0] {
	case '+', '-', ':', '_', ',', '#', '(':
		return 0, nil
	case '$', '=', '!', '*', '~', '>', '%', '|':
		if n, err = strconv.Atoi(string(line[1:])); err != nil || n > maxRedisPush {
			return 0, errRedisSyntax
		}
	default:
		return 0, errRedisSyntax
	}
	if n < 0 { // RESP2's null
		return 0, nil
	}
	switch line[0] {
	case '$', '=', '!':
		return 0, r.skip(n + 2)
	case '%':
		return 2 * n, nil
	case '|':
		return 2*n + 1, nil // attributes of a value, which follows
	}
	return n, nil
}
