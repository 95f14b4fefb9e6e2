package dial

import (
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The request has arrived, and the path falls silent before the reply.
func TestWhoWaitsForAReplyOnASilentPathIsToldInTime(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){
		"a read": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{})
			labEcho(t, o.Lab)
			c := o.dial(t)
			talk(t, c)
			read := after(func() error { _, err := c.Read(make([]byte, 1)); return err })
			o.Drop()
			begin := time.Now()
			o.endsWithin(t, read, begin, othersWithin+slack)
		},
		"a read with package net alone": func(t *testing.T) {
			const patience = 8 * time.Second
			lab := netlab.New(t)
			labEcho(t, lab)
			c, err := lab.Client.Dial(t.Context(), nil, lab.Server.Addr(labPort))
			require.NoError(t, err)
			defer c.Close()
			talk(t, c)
			lab.Drop()
			require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			t.Logf("still blocked after %v", patience)
		},
	}
	for _, k := range []kind{http1, http2, h2c} {
		tests[string(k)] = func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{})
			arrived := make(chan struct{}, 1)
			o.serve(t, k, o.Server.Listen(t, labPort), forever(arrived))
			c, url := o.client(t, k)
			asked := after(post(t, c, url))
			<-arrived
			o.Drop()
			begin := time.Now()
			o.endsWithin(t, asked, begin, othersWithin+slack)
		}
	}
	together(t, tests)
}

// Nobody can have both with the kernel's options alone: patience with a peer
// that reads nothing for a while, and none with one that is dead.
func TestASlowReaderMayTakeItsTimeAndADeadOneNot(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){
		"dead behind a closed window": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{SlowReaders: true})
			o.Server.ListenDeaf(t, labPort)
			c := o.dial(t)
			written := after(func() error { _, err := io.Copy(c, endless{}); return err })
			poll(5*time.Second, func() bool { v, _ := o.d.Guard().View(c); return v.State == health.SlowReader })
			v, _ := o.d.Guard().View(c)
			require.Equal(t, health.SlowReader, v.State)
			o.Drop()
			begin := time.Now()
			o.endsWithin(t, written, begin, othersWithin+slack)
		},
		"dead with an open window": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{SlowReaders: true})
			deaf := o.Server.ListenDeaf(t, labPort)
			deaf.Hear()
			c := o.dial(t)
			written := after(func() error { _, err := io.Copy(c, endless{}); return err })
			poll(5*time.Second, func() bool { return deaf.Received() > 1<<20 })
			o.Drop()
			begin := time.Now()
			o.endsWithin(t, written, begin, othersWithin+slack)
		},
	}
	for _, k := range []kind{http1, http2} {
		tests["slow, "+string(k)] = func(t *testing.T) { slowUpload(t, k) }
		tests["dead, "+string(k)] = func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{SlowReaders: true})
			arrived := make(chan struct{}, 1)
			o.serve(t, k, o.Server.Listen(t, labPort), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				arrived <- struct{}{}
				_, _ = io.Copy(io.Discard, r.Body)
			}))
			c, url := o.client(t, k)
			asked := after(func() error {
				_, _, err := reply(t.Context(), c, http.MethodPost, url, endlessly())
				return err
			})
			<-arrived
			o.Drop()
			begin := time.Now()
			o.endsWithin(t, asked, begin, othersWithin+slack)
		}
	}
	together(t, tests)
}

// slowUpload uploads more than buffers hold to a server that doesn't read for
// three times DetectWithin.
func slowUpload(t *testing.T, k kind) {
	const size = 16 << 20
	pause := 3 * othersWithin
	if *aMinute {
		pause = time.Minute
	}
	o := newOthers(t, netlab.Config{}, Config{SlowReaders: true})
	o.serve(t, k, o.Server.ListenBuffer(t, labPort, 64<<10), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return
		}
		if n, err := io.Copy(io.Discard, r.Body); n == size && err == nil {
			_, _ = io.WriteString(w, "ok")
		}
	}))
	c, url := o.client(t, k)
	answer, ms, err := reply(t.Context(), c, http.MethodPost, url, io.LimitReader(endless{}, size))
	require.NoError(t, err)
	assert.Equal(t, "ok", answer)
	t.Logf("complete after %d ms", ms)
	dialed, dead := o.count()
	assert.Equal(t, 1, dialed)
	assert.Zero(t, dead)
}

// A router says that it can't reach the peer: 20 ms there and back.
func TestARoutersWordInFlightEndsARequestAtOnce(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){
		"a write and a read": func(t *testing.T) {
			o := unreachable(t)
			labEcho(t, o.Lab)
			c := o.dial(t)
			talk(t, c)
			said(t, o, func() error {
				if _, err := c.Write([]byte("x")); err != nil {
					return err
				}
				_, err := c.Read(make([]byte, 1))
				return err
			})
		},
	}
	for _, k := range []kind{http1, http2, h2c} {
		tests[string(k)] = func(t *testing.T) {
			o := unreachable(t)
			o.serve(t, k, o.Server.Listen(t, labPort), meeting(1))
			c, url := o.client(t, k)
			_, err := get(t, c, url)
			require.NoError(t, err)
			said(t, o, post(t, c, url))
		}
	}
	together(t, tests)
}

func unreachable(t *testing.T) *others {
	t.Helper()
	o := newOthers(t, netlab.Config{}, Config{FastUnreachable: true})
	o.Delay(10*time.Millisecond, 0)
	return o
}

func said(t *testing.T, o *others, use func() error) {
	t.Helper()
	// Until the last acknowledgement has arrived: Linux takes a router's word about
	// that as well, and a client would dial.
	<-time.After(200 * time.Millisecond)
	o.Unreachable()
	begin := time.Now()
	err := use()
	took := time.Since(begin)
	t.Logf("after %d ms: %v", took.Milliseconds(), err)
	assert.ErrorIs(t, err, syscall.EHOSTUNREACH)
	assert.Equal(t, health.Path, health.Classify(err))
	assert.LessOrEqual(t, took, o.limit(begin, time.Second))
}
