package health

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// site is a lab with an echo server, and a Guard whose canaries stay in it.
type site struct {
	*netlab.Lab
	guard  *Guard
	policy *Policy
	addr   string
	clock  *netlab.Clock

	mu      sync.Mutex
	changes []StateChange
}

const detectWithin = 5 * time.Second

func newSite(t *testing.T, nat bool, cfg PolicyConfig) *site {
	t.Helper()
	s := &site{Lab: netlab.NewWith(t, netlab.Config{NAT: nat}), clock: netlab.NewClock(t)}
	s.guard = newGuard(t, GuardConfig{Dial: s.Client.Dialer(nil)})
	if cfg.DetectWithin == 0 {
		cfg.DetectWithin = detectWithin
	}
	cfg.StateChanged = func(c StateChange) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changes = append(s.changes, c)
	}
	var err error
	s.policy, err = NewPolicy(cfg)
	require.NoError(t, err)
	ln := s.Server.Listen(t, 6379)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	s.addr = s.Server.Addr(6379)
	return s
}

// dial opens a connection with the options of package dial for detectWithin.
func (s *site) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := s.Client.Dial(timeout(t, within), nil, s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, sockopt.Control(c, func(fd uintptr) error {
		return errors.Join(
			sockopt.SetKeepAlive(fd, sockopt.KeepAlive{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}),
			sockopt.SetUserTimeout(fd, detectWithin),
			sockopt.SetRTOMax(fd, time.Second),
		)
	}))
	_, err = s.guard.Watch(c, s.policy, nil)
	require.NoError(t, err)
	echo(t, c)
	return c.(*net.TCPConn)
}

func echo(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(within)))
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Time{}))
}

// read returns what a waiting Read ends with, and when.
func read(c net.Conn) <-chan error {
	ch := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ch <- err
	}()
	return ch
}

// cleared reports whether a suspect was alive after all.
func (s *site) cleared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.changes, func(c StateChange) bool { return c.From == Suspect && c.To == Alive })
}

func (s *site) log(t *testing.T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changes {
		t.Logf("%v %v → %v silent %v unanswered %d severed %v %v", c.Local, c.From, c.To, c.Silent, c.Unanswered, c.Severed, c.Cause)
	}
}

func TestTheSilentAreEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		nat         bool
		cut         func(*site)
		least, most time.Duration
		read        error
		fresh       bool // a new connection worked
	}{
		"by an outage, when DetectWithin is over": {
			cut:   func(s *site) { s.Drop() },
			least: detectWithin - time.Second, most: detectWithin + time.Second,
			read: syscall.ETIMEDOUT,
		},
		"by a NAT gateway that forgets their flow": {
			nat:  true,
			cut:  func(s *site) { s.ForgetNAT() },
			most: 5500 * time.Millisecond,
			read: syscall.ECONNRESET, fresh: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, test.nat, PolicyConfig{})
			c := s.dial(t)
			ended := read(c)
			before := time.Now()
			test.cut(s)
			began := time.Now() // it took effect between the two
			err := receive(t, ended, "the read ends")
			most := time.Since(before)
			took := s.clock.Since(began)
			s.log(t)
			cause := s.guard.Cause(c)
			t.Logf("after %v: %v; cause %v", took, err, cause)
			var silence *SilenceError
			require.ErrorAs(t, cause, &silence)
			// The guard wants more proof where packets get lost, and is slower where all is.
			if late := allowed(s.clock.Lost(began)) > 0; test.fresh && !silence.Fresh && (late || s.cleared()) {
				assert.Less(t, took, allowed(detectWithin+time.Second))
				return
			}
			assert.ErrorIs(t, err, test.read)
			assert.Greater(t, most, test.least)
			assert.Less(t, took, allowed(test.most))
			assert.Equal(t, test.fresh, silence.Fresh)
			assert.Equal(t, Path, Classify(cause))
		})
	}
}

func TestAnOutageOfThreeSecondsEndsNoConnection(t *testing.T) {
	t.Parallel()
	for phase := range 8 {
		t.Run(time.Duration(phase*250*int(time.Millisecond)).String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, false, PolicyConfig{})
			var conns []net.Conn
			for range 5 {
				conns = append(conns, s.dial(t))
			}
			time.Sleep(time.Duration(phase) * 250 * time.Millisecond)
			began := time.Now()
			s.Drop()
			time.Sleep(3 * time.Second)
			s.Heal()
			if took := time.Since(began); took > 3500*time.Millisecond {
				t.Skipf("this machine is too slow: the outage lasted %v", took)
			}
			time.Sleep(2 * time.Second)
			s.log(t)
			for _, c := range conns {
				echo(t, c)
			}
		})
	}
}

func TestCheckAsks(t *testing.T) {
	t.Parallel()
	s := newSite(t, false, PolicyConfig{AskedBeforeUse: true, FreshFor: -1})
	c := s.dial(t)
	for range 5 {
		time.Sleep(askable + 100*time.Millisecond)
		states, err := s.guard.Check(context.Background(), c)
		require.NoError(t, err)
		assert.Equal(t, []State{Alive}, states)
	}
	time.Sleep(askable + 100*time.Millisecond)
	s.Drop()
	defer s.Heal()
	began := time.Now()
	states, err := s.guard.Check(context.Background(), c)
	require.NoError(t, err)
	assert.Equal(t, []State{Suspect}, states)
	assert.GreaterOrEqual(t, time.Since(began), minPatience)
}
