//go:build !plan9

package health

import (
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReusedDescriptorsAreNotConfused opens, kills and closes connections as
// fast as it can, so that descriptors return at once, and requires that whoever
// is called back really died.
func TestReusedDescriptorsAreNotConfused(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer ln.Close()
		var peers sync.WaitGroup
		go func() {
			for {
				peer, err := ln.Accept()
				if err != nil {
					return
				}
				peers.Go(func() { // hangs up first only when told to
					defer peer.Close()
					b := make([]byte, 1)
					if _, err := peer.Read(b); err == nil && b[0] == 'r' {
						peer.(*net.TCPConn).SetLinger(0)
					}
				})
			}
		}()
		var wrong, right atomic.Int32
		var wg sync.WaitGroup
		until := time.Now().Add(time.Second)
		for range 8 {
			wg.Go(func() {
				for time.Now().Before(until) && !t.Failed() {
					stormOne(t, g, ln.Addr().String(), &wrong, &right)
				}
			})
		}
		wg.Wait()
		assert.Zero(t, wrong.Load(), "callbacks for the living")
		assert.Positive(t, right.Load())
		eventually(t, "the table is empty", func() bool { runtime.GC(); return g.used() == 0 })
		peers.Wait()
	})
}

func stormOne(t *testing.T, g *Guard, addr string, wrong, right *atomic.Int32) {
	c, err := net.Dial("tcp", addr)
	if !assert.NoError(t, err) {
		return
	}
	defer c.Close()
	var doomed atomic.Bool
	died := make(chan bool, 2)
	w, err := g.Watch(c, nil, func(*Watch) {
		if !doomed.Load() {
			wrong.Add(1)
		}
		died <- true
	})
	if !assert.NoError(t, err) {
		return
	}
	switch rand.IntN(5) {
	case 0: // stopped, then closed
		w.Stop()
	case 1: // closed, then stopped
		c.Close()
		w.Stop()
	case 2: // closed and dropped
		c.Close()
	case 3: // dies and is stopped at the same time
		doomed.Store(true)
		c.Write([]byte("f"))
		w.Stop()
	case 4: // dies
		doomed.Store(true)
		c.Write([]byte{"fr"[rand.IntN(2)]})
		receive(t, died, "the callback")
		right.Add(1)
		w.Stop()
	}
}

func TestDroppedConnectionsLeaveNothing(t *testing.T) {
	for name, drop := range map[string]func(g *Guard, c net.Conn) error{
		"with a callback": func(g *Guard, c net.Conn) error {
			_, err := g.Watch(c, nil, func(*Watch) { c.Close() }) // refers to c
			return err
		},
		"without": func(g *Guard, c net.Conn) error {
			_, err := g.Watch(c, nil, nil)
			return err
		},
		"twice": func(g *Guard, c net.Conn) error {
			_, err := g.Watch(c, nil, nil)
			if err == nil {
				_, err = g.Watch(c, nil, func(*Watch) {})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachGuard(t, func(t *testing.T, g *Guard) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				defer ln.Close()
				const n = 50
				for range n {
					c, err := net.Dial("tcp", ln.Addr().String())
					require.NoError(t, err)
					require.NoError(t, drop(g, c))
				}
				for range n { // closed by their finalizers
					peer, err := ln.Accept()
					require.NoError(t, err)
					defer peer.Close()
					require.NoError(t, peer.SetReadDeadline(time.Now().Add(within)))
					ended := make(chan error, 1)
					go func() {
						_, err := peer.Read(make([]byte, 1))
						ended <- err
					}()
					eventually(t, "the connection is collected", func() bool {
						runtime.GC()
						return len(ended) == 1
					})
					require.ErrorIs(t, <-ended, io.EOF)
				}
				eventually(t, "the table is empty", func() bool { runtime.GC(); return g.used() == 0 })
			})
		})
	}
}

func TestAWatchWithoutACallbackLivesAsLongAsItsConnection(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		_, err := g.Watch(c, nil, nil)
		require.NoError(t, err)
		for range 5 {
			runtime.GC()
		}
		require.Equal(t, 1, g.used())
		require.NoError(t, peer.Close())
		eventually(t, "the cause", func() bool { return g.Cause(c) != nil })
	})
}

func TestADroppedWatchOfALivingConnectionIsForgotten(t *testing.T) {
	eachGuard(t, func(t *testing.T, g *Guard) {
		c, peer := pair(t)
		_, err := g.Watch(c, nil, func(*Watch) { t.Error("dropped") })
		require.NoError(t, err)
		eventually(t, "it is forgotten", func() bool { runtime.GC(); return g.used() == 0 })
		_, died := watch(t, g, c) // whose descriptor epoll still knows
		require.NoError(t, peer.Close())
		receive(t, died, "the callback")
	})
}
