package dial

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// A third of them is busy, a third waits for a reply, and a third is idle,
// before, meanwhile and for some time after.
func TestAnOutageOf3SecondsEndsNoneOf100Connections(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, idle := range []time.Duration{0, time.Second, 1900 * time.Millisecond} {
		tests[fmt.Sprint("idle for ", idle)] = func(t *testing.T) { outlive(t, idle) }
	}
	together(t, tests)
}

func outlive(t *testing.T, idle time.Duration) {
	const n, outage = 100, 3 * time.Second
	o := newOthers(t, netlab.Config{}, Config{})
	let := make(chan struct{})
	obey(t, o.Server.Listen(t, labPort), let)
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = o.dial(t)
		talk(t, conns[i])
	}
	<-time.After(idle)

	var healed atomic.Int64
	busy, waiting := make(chan error, n), make(chan error, n)
	for i, c := range conns {
		switch i % 3 {
		case 0:
			go func() { busy <- chat(c, &healed) }()
		case 1:
			_, err := c.Write([]byte("later"))
			require.NoError(t, err)
			go func() {
				_, err := io.ReadFull(c, make([]byte, 5))
				waiting <- err
			}()
		}
	}
	cut := time.Now()
	o.Drop()
	<-time.After(outage)
	o.Heal()
	begin := time.Now()
	if took := begin.Sub(cut); took > outage+slack/2 {
		t.Skipf("this machine is too slow: the outage lasted %v", took)
	}
	healed.Store(1)
	all(t, o, cut, busy, (n+2)/3)
	t.Logf("the busy ones go on %d ms after the heal", time.Since(begin).Milliseconds())
	close(let)
	all(t, o, cut, waiting, (n+1)/3)
	<-time.After(2500 * time.Millisecond) // what probes had been lost for would show by now
	_, dead := o.count()
	assert.Zero(t, dead)
	for _, c := range conns {
		talk(t, c)
	}
}

// all requires that all went well, unless this machine stood still since the
// fault.
func all(t *testing.T, o *others, fault time.Time, results <-chan error, n int) {
	t.Helper()
	for range n {
		select {
		case err := <-results:
			if lost := o.clock.Lost(fault); err != nil && lost > slack {
				t.Skipf("this machine stood still for %v: %v", lost, err)
			}
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("it doesn't go on")
		}
	}
}

// chat talks until it has done so once after the heal.
func chat(c net.Conn, healed *atomic.Int64) error {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for last := false; !last; <-pace.C {
		last = healed.Load() != 0
		if err := exchange(c); err != nil {
			return err
		}
	}
	return nil
}

// exchange has something echoed.
func exchange(c net.Conn) error {
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}

// obey serves an echo of five bytes, and of "later" only when let.
func obey(t *testing.T, ln net.Listener, let <-chan struct{}) {
	t.Helper()
	ctx := t.Context()
	go accept(ln, func(c net.Conn) {
		for b := make([]byte, 5); ; {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			if string(b) == "later" {
				select {
				case <-let:
				case <-ctx.Done():
					return
				}
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
}

// Without RTOMax, TCP would wait as long again as the outage took.
func TestTrafficFlowsAgainSoonAfterALongOutage(t *testing.T) {
	t.Parallel()
	hasRTOMax(t)
	tests := map[string]func(*testing.T){
		"what was written meanwhile": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{DetectWithin: 2 * time.Minute})
			labEcho(t, o.Lab)
			c := o.dial(t)
			talk(t, c)
			flowsAgain(t, o, func() error { return exchange(c) })
		},
		"a reply of a server with ListenConfig": func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{DetectWithin: 2 * time.Minute})
			var ln net.Listener
			require.NoError(t, o.Server.Do(func() (err error) {
				ln, err = o.d.ListenConfig().Listen(t.Context(), "tcp", o.addr)
				return err
			}))
			t.Cleanup(func() { ln.Close() })
			let := make(chan struct{})
			obey(t, ln, let)
			c := o.dial(t)
			talk(t, c)
			_, err := c.Write([]byte("later"))
			require.NoError(t, err)
			poll(5*time.Second, func() bool { return o.Client.Conns()[0].Unacked == 0 })
			flowsAgain(t, o, func() error {
				close(let)
				_, err := io.ReadFull(c, make([]byte, 5))
				return err
			})
		},
	}
	if *aMinute {
		tests["package net alone"] = func(t *testing.T) {
			lab := netlab.New(t)
			labEcho(t, lab)
			c, err := lab.Client.Dial(t.Context(), nil, lab.Server.Addr(labPort))
			require.NoError(t, err)
			defer c.Close()
			talk(t, c)
			lab.Drop()
			used := after(func() error { return exchange(c) })
			<-time.After(time.Minute)
			lab.Heal()
			begin := time.Now()
			require.NoError(t, <-used)
			t.Logf("%v after the heal", time.Since(begin))
		}
	}
	for _, k := range []kind{http1, http2} {
		tests[string(k)] = func(t *testing.T) {
			o := newOthers(t, netlab.Config{}, Config{DetectWithin: 2 * time.Minute})
			o.serve(t, k, o.Server.Listen(t, labPort), meeting(1))
			c, url := o.client(t, k)
			_, err := get(t, c, url)
			require.NoError(t, err)
			flowsAgain(t, o, post(t, c, url))
		}
	}
	together(t, tests)
}

// flowsAgain drops everything for as long as nobody waits gladly, and requires
// that what is used meanwhile goes on soon after.
func flowsAgain(t *testing.T, o *others, use func() error) {
	t.Helper()
	outage := 20 * time.Second
	if *aMinute {
		outage = time.Minute
	}
	o.Drop()
	used := after(use)
	<-time.After(outage)
	o.Heal()
	begin := time.Now()
	all(t, o, begin, used, 1)
	t.Logf("%d ms after the heal", time.Since(begin).Milliseconds())
	assert.LessOrEqual(t, time.Since(begin), o.limit(begin, 1500*time.Millisecond))
	dialed, dead := o.count()
	assert.Equal(t, 1, dialed)
	assert.Zero(t, dead)
}
