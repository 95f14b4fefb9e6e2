package httpclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/pool"
)

func TestNoGETFailsWhenNginxEndsKeepAliveJustThen(t *testing.T) {
	// Each of the clients has one connection, which lies idle for about as long
	// as nginx keeps it.
	const clients, rounds = 25, 4
	for name, limit := range map[string]string{"announced": "2s 2s", "unannounced": "1s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			overNginx(t, "keepalive_timeout "+limit+";", "", func(t *testing.T, n *nginx, protocol string) {
				var l load
				idle := time.Second
				if name == "announced" && protocol == "HTTP/2" {
					idle = 2 * time.Second // HTTP/2 has no such header
				}
				for i := range clients {
					c := n.client(t, protocol, Config{})
					l.working.Go(func() {
						l.one(n, c, protocol, 0)
						for range rounds {
							pause(t.Context(), idle-25*time.Millisecond+time.Duration(2*i)*time.Millisecond)
							l.one(n, c, protocol, 0)
						}
					})
				}
				l.working.Wait()
				require.Equal(t, clients*(rounds+1), l.gets.requireNoneFailed(t, "GETs"))
			})
		})
	}
}

func TestAnAnnouncedKeepAliveTimeoutIsLearnt(t *testing.T) {
	n := newNginx(t, "keepalive_timeout 60s 2s;", "")
	var mu sync.Mutex
	closed := map[pool.Reason]int{}
	c := n.client(t, "HTTP/1.1", Config{Trace: &Trace{ConnClosed: func(d ConnClosed) {
		mu.Lock()
		defer mu.Unlock()
		closed[d.Reason]++
	}}})
	calm(c.inner)
	ask := func() (reused bool) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.urls["HTTP/1.1"], nil)
		require.NoError(t, err)
		resp, err := c.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return reused
	}
	begun := time.Now()
	require.False(t, ask())
	if reused := ask(); time.Since(begun) < time.Second {
		require.True(t, reused)
	}
	before := c.Stat().Hosts[0].Conns.Opened
	// nginx would keep it for a minute: who closes it is the Client, a second
	// before the two are over that were announced.
	pause(t.Context(), 1050*time.Millisecond)
	require.False(t, ask())
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[pool.Reason]int{pool.ReasonIdle: int(before)}, closed)
}

func TestNothingFailsWhenNginxEndsConnectionsAfterSoManyRequests(t *testing.T) {
	overNginx(t, "keepalive_requests 10;", "", func(t *testing.T, n *nginx, protocol string) {
		c := n.client(t, protocol, Config{})
		var l load
		for range 8 {
			l.working.Go(func() {
				for l.ids.Load() < 500 {
					l.one(n, c, protocol, 3)
				}
			})
		}
		l.working.Wait()
		t.Logf("%d requests repeated", c.Stat().Retries)
		gets := l.gets.requireNoneFailed(t, "GETs")
		require.GreaterOrEqual(t, gets+l.posts.requireNoneFailed(t, "POSTs"), 500)
		stat := c.Stat().Hosts[0].Conns
		assert.Zero(t, stat.OpenFailed, "connections that served well are no reason to wait before the next is opened")
		assert.GreaterOrEqual(t, stat.Opened, int64(50))
		n.requireOnceEach(t, c, &l.posts)
	})
}

func TestNoGETFailsAndNoPOSTIsRepeatedWhileNginxReloads(t *testing.T) {
	overNginx(t, "", "", func(t *testing.T, n *nginx, protocol string) {
		c := n.client(t, protocol, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var l load
		l.start(ctx, n, c, protocol, 16, 4)
		for range 3 {
			l.more(t, n, 500)
			n.reload(t)
		}
		l.more(t, n, 500)
		cancel()
		l.working.Wait()
		failed, posts := l.posts.failed()
		t.Logf("%d GETs, %d POSTs, %d of these failed, %d requests repeated: %v",
			l.gets.requireNoneFailed(t, "GETs"), posts, len(failed), c.Stat().Retries, errors.Join(failed...))
		n.requireOnceEach(t, c, &l.posts)
	})
}

func TestNoGETFailsAndNoPOSTIsRepeatedWhileNginxIsStoppedAndStarted(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"fast": syscall.SIGTERM, "graceful": syscall.SIGQUIT} {
		for _, protocol := range nginxProtocols {
			t.Run(name+", "+protocol, func(t *testing.T) {
				t.Parallel()
				// What nginx passes on and is stopped before it can answer has
				// been executed.
				b := newBackend(t)
				// A graceful stop waits for connections that were never used.
				n := newNginx(t, "client_header_timeout 2s;", "location /do/ { proxy_pass "+b.URL+"; }")
				c := n.client(t, protocol, Config{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var l load
				l.start(ctx, n, c, protocol, 16, 4)
				for range 3 {
					l.more(t, n, 200)
					n.stop(t, sig)
					pause(t.Context(), 300*time.Millisecond)
					n.start(t)
				}
				l.more(t, n, 100)
				cancel()
				l.working.Wait()
				failed, posts := l.posts.failed()
				if sig == syscall.SIGTERM {
					l.gets.dropCut()
				}
				t.Logf("%d GETs, %d POSTs, %d of these failed, %d requests repeated",
					l.gets.requireNoneFailed(t, "GETs"), posts, len(failed), c.Stat().Retries)
				b.requireOnceEach(t, &l.posts)
			})
		}
	}
}

func TestADownloadIsWholeWhileNginxReloads(t *testing.T) {
	overNginx(t, "", "location /file { limit_rate 4m; }", func(t *testing.T, n *nginx, protocol string) {
		content := make([]byte, 8<<20)
		for i := range content {
			content[i] = byte(mathrand.Uint32())
		}
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "www", "file"), content, 0o644))
		c := n.client(t, protocol, Config{})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.urls[protocol]+"/file", nil)
		require.NoError(t, err)
		resp, err := c.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, int64(len(content)), resp.ContentLength)
		sum := sha256.New()
		for range 3 {
			_, err = io.CopyN(sum, resp.Body, 1<<20)
			require.NoError(t, err)
			n.reload(t)
			require.NoError(t, n.ask(c, protocol, http.MethodGet, "/do/beside", ""))
		}
		_, err = io.Copy(sum, resp.Body)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256(content), [sha256.Size]byte(sum.Sum(nil)))
	})
}

func TestNginxsLimitOfStreamsIsKeptTo(t *testing.T) {
	for _, limit := range []int{1, 4} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			n := newNginx(t, fmt.Sprintf("http2_max_concurrent_streams %d;", limit), "location /file { limit_rate 256k; }")
			content := bytes.Repeat([]byte("holdfast"), 8<<10)
			require.NoError(t, os.WriteFile(filepath.Join(n.dir, "www", "file"), content, 0o644))
			const conns, requests = 4, 32
			c := n.client(t, "HTTP/2", Config{MaxConnsPerHost: conns})
			var got tally
			var all sync.WaitGroup
			for i := range requests {
				all.Go(func() {
					got.end(fmt.Sprint(i), func() error {
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						defer cancel()
						req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.urls["HTTP/2"]+"/file", nil)
						if err != nil {
							return err
						}
						resp, err := c.RoundTrip(req)
						if err != nil {
							return err
						}
						defer resp.Body.Close()
						b, err := io.ReadAll(resp.Body)
						if err == nil && !bytes.Equal(b, content) {
							err = fmt.Errorf("%s, %d bytes", resp.Status, len(b))
						}
						return err
					}())
				})
			}
			all.Wait()
			require.Equal(t, requests, got.requireNoneFailed(t, "GETs"))
			hosts := c.Stat().Hosts
			require.Len(t, hosts, 1)
			t.Logf("%d repeated, %+v", c.Stat().Retries, hosts[0])
			assert.True(t, hosts[0].HTTP2)
			assert.LessOrEqual(t, hosts[0].Conns.Total, conns)
		})
	}
}

func TestSparesThatNginxGivesUpWaitingForAreReplaced(t *testing.T) {
	overNginx(t, "client_header_timeout 1s; keepalive_timeout 1s;", "", func(t *testing.T, n *nginx, protocol string) {
		const spares = 4
		c := n.client(t, protocol, Config{MinIdleConnsPerHost: spares})
		var l load
		l.one(n, c, protocol, 0)
		for range 3 {
			before := c.Stat().Hosts[0].Conns
			n.eventually(t, "nginx closes the spares, and there are new ones", func() bool {
				now := c.Stat().Hosts[0].Conns
				return now.ClosedAll() >= before.ClosedAll()+spares && now.Idle >= spares
			})
			l.one(n, c, protocol, 0)
		}
		l.gets.requireNoneFailed(t, "GETs")
	})
}

func TestABodyThatNginxRefusesEarlyIsAnsweredAndDoesNoHarm(t *testing.T) {
	overNginx(t, "client_max_body_size 64k;", "", func(t *testing.T, n *nginx, protocol string) {
		c := n.client(t, protocol, Config{})
		for i := range 10 {
			for _, expect := range []string{"", "100-continue"} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				body := io.LimitReader(zeros{}, 8<<20) // of unknown length to net/http, if not said
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/do/big%d%s", n.urls[protocol], i, expect), body)
				require.NoError(t, err)
				req.ContentLength = 8 << 20
				if expect != "" {
					req.Header.Set("Expect", expect)
				}
				resp, err := c.RoundTrip(req)
				require.NoError(t, err)
				require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
				_, err = io.Copy(io.Discard, resp.Body)
				assert.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				cancel()
				require.NoError(t, n.ask(c, protocol, http.MethodPost, fmt.Sprintf("/do/small%d%s", i, expect), "small"))
			}
		}
		n.requireNoneTwice(t, c)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWhatNginxCompressesArrivesPlain(t *testing.T) {
	overNginx(t, "gzip on; gzip_types text/plain; gzip_min_length 1;", "", func(t *testing.T, n *nginx, protocol string) {
		content := bytes.Repeat([]byte("holdfast"), 64<<10)
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "www", "file"), content, 0o644))
		c := n.client(t, protocol, Config{})
		calm(c.inner)
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), nginxTimeout)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.urls[protocol]+"/file", nil)
			require.NoError(t, err)
			resp, err := c.RoundTrip(req)
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			cancel()
			require.True(t, resp.Uncompressed)
			require.True(t, bytes.Equal(content, b))
		}
		require.Equal(t, int64(1), c.Stat().Hosts[0].Conns.Opened)
	})
}
