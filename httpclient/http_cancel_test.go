package httpclient

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// deaf listens, and never answers.
func deaf(t testing.TB) (addr string, accepted <-chan bool) {
	came := make(chan bool, 100)
	addr = tcpServer(t, func(c net.Conn, _ int) {
		came <- true
		_, _ = io.Copy(io.Discard, c)
	})
	return addr, came
}

// patient is a Config whose Client has one connection per host, and gives up
// nothing by itself.
func patient(cfg *Config) {
	cfg.MaxConnsPerHost = 1
	cfg.OpenTimeout = time.Minute
}

// canceled sends a request whose context ends when the server says so, and finds
// that it fails for that and leaves nothing.
func canceled(t *testing.T, c *Client, url string, body *countedBody, now <-chan bool) *Error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", url, nil)
	require.NoError(t, err)
	req.Body, req.ContentLength = body, -1
	go func() {
		<-now
		cancel()
	}()
	_, err = c.RoundTrip(req)
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, context.DeadlineExceeded)
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%T", err)
	assert.False(t, e.Timeout())
	body.closedOnce(t)
	return e
}

func TestARequestCanceledBeforeItBeginsIsNotSent(t *testing.T) {
	c := clientOf(t, nil)
	now := make(chan bool)
	close(now)
	ctx, cancel := context.WithCancelCause(context.Background())
	mine := errors.New("mine")
	cancel(mine)
	body := bodyOf("x")
	req, err := http.NewRequestWithContext(ctx, "POST", "http://127.0.0.1:1", body)
	require.NoError(t, err)
	_, err = c.RoundTrip(req)
	assert.ErrorIs(t, err, mine, "the cause, as with a Transport")
	body.closedOnce(t)
	assert.Zero(t, onlyHost(t, c).Conns.Opened+onlyHost(t, c).Conns.OpenFailed)
}

func TestARequestIsCanceledWhileItWaitsInTheQueue(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		arrived, finish := make(chan bool), make(chan bool)
		s := unstarted(h2, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				arrived <- true
				<-finish
			}
		})
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
		start(t, s, h2)
		c := clientOf(t, s, patient)
		fetch(t, c, s.URL) // so that the limit of streams is known
		var wg sync.WaitGroup
		wg.Go(func() { fetch(t, c, s.URL+"/wait") })
		<-arrived
		now := make(chan bool)
		go func() {
			eventually(patience, func() bool { return onlyHost(t, c).Waiting > 0 })
			close(now)
		}()
		canceled(t, c, s.URL, bodyOf("x"), now)
		assert.Equal(t, 1, onlyHost(t, c).InFlight)
		close(finish)
		wg.Wait()
		allFree(t, c)
		fetch(t, c, s.URL)
		assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened)
	})
}

func TestARequestIsCanceledDuringTheDial(t *testing.T) {
	for _, phase := range []string{"TLS handshake", "CONNECT"} {
		t.Run(phase, func(t *testing.T) {
			addr, came := deaf(t)
			c := clientOf(t, nil, patient, func(cfg *Config) {
				if phase == "CONNECT" {
					cfg.Transport.Proxy = http.ProxyURL(mustParse(t, "http://"+addr))
				}
			})
			canceled(t, c, "https://"+addr, bodyOf("x"), came)
			host := onlyHost(t, c)
			assert.Zero(t, host.InFlight)
			assert.Zero(t, host.Waiting)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			assert.NoError(t, c.Close(ctx), "the dial, which is the host's, ends with the Client")
		})
	}
}

func TestARequestIsCanceledWhileItsBodyIsWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		came := make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				return
			}
			_, err := io.ReadFull(r.Body, make([]byte, 1000))
			assert.NoError(t, err)
			came <- true
			_, _ = io.Copy(io.Discard, r.Body)
		})
		c := clientOf(t, s, patient)
		canceled(t, c, s.URL, &countedBody{Reader: endless{}}, came)
		allFree(t, c)
		fetch(t, c, s.URL)
	})
}

func TestARequestIsCanceledWhileItWaitsForTheResponse(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		came := make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				_, _ = io.Copy(io.Discard, r.Body)
				came <- true
				<-r.Context().Done()
			}
		})
		c := clientOf(t, s, patient)
		e := canceled(t, c, s.URL, bodyOf("x"), came)
		assert.Equal(t, 1, e.Attempts)
		allFree(t, c)
		fetch(t, c, s.URL)
		if h2 {
			assert.EqualValues(t, 1, onlyHost(t, c).Conns.Opened, "a stream is canceled, not the connection")
		}
	})
}

func TestARequestIsCanceledWhileItsResponseIsRead(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				_, _ = io.WriteString(w, "start")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		})
		c := clientOf(t, s, patient)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", s.URL, nil)
		require.NoError(t, err)
		resp, err := c.RoundTrip(req)
		require.NoError(t, err)
		_, err = io.ReadFull(resp.Body, make([]byte, 5))
		require.NoError(t, err)
		cancel()
		_, err = io.ReadAll(resp.Body)
		assert.ErrorIs(t, err, context.Canceled)
		assert.NoError(t, resp.Body.Close())
		allFree(t, c)
		fetch(t, c, s.URL)
	})
}

// setLegacyCancel does what an http.Client does for its Timeout.
func setLegacyCancel(req *http.Request, cancel <-chan struct{}) {
	//lint:ignore SA1019 deprecated, and what http.Client uses for its Timeout
	req.Cancel = cancel //nolint:staticcheck // see above
}

func TestTheLegacyChannelCancels(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		came := make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			came <- true
			<-r.Context().Done()
		})
		c := clientOf(t, s)
		cancel := make(chan struct{})
		req, err := http.NewRequest("GET", s.URL, nil)
		require.NoError(t, err)
		setLegacyCancel(req, cancel)
		go func() {
			<-came
			close(cancel)
		}()
		_, err = c.RoundTrip(req)
		assert.ErrorContains(t, err, "request canceled")
	})
}

func TestNobodyWaitsForTheLegacyChannelOfARequestThatFailed(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		c := clientOf(t, s)
		req, err := http.NewRequest("POST", s.URL, nil)
		require.NoError(t, err)
		setLegacyCancel(req, make(chan struct{}))
		_, err = c.RoundTrip(req)
		assert.Error(t, err)
		// A goroutine that was left is found by TestMain.
	})
}

// watched is a context that knows how many hang on it.
type watched struct {
	context.Context
	done chan struct{}
	hang atomic.Int32
}

func (c *watched) Done() <-chan struct{} { return c.done }
func (c *watched) Value(any) any         { return nil }

// AfterFunc is what package context asks for.
func (c *watched) AfterFunc(func()) func() bool {
	c.hang.Add(1)
	var stopped atomic.Bool
	return func() bool {
		if !stopped.Swap(true) {
			c.hang.Add(-1)
		}
		return true
	}
}

func TestNothingIsLeftOnTheContextOfARequestThatIsOver(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/cut":
				_, _ = io.WriteString(w, "cut")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case "/fail":
				panic(http.ErrAbortHandler)
			case "/empty":
			default:
				_, _ = io.Copy(w, io.LimitReader(endless{}, 1<<20))
			}
		})
		echo := echoServer(t, "echo")
		c := clientOf(t, s)
		ctx := &watched{Context: context.Background(), done: make(chan struct{})}
		for _, url := range []string{s.URL, s.URL + "/early", s.URL + "/empty", s.URL + "/cut", s.URL + "/fail", "http://" + echo} {
			req, err := http.NewRequestWithContext(ctx, "POST", url, nil)
			require.NoError(t, err)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			if h2 && url != "http://"+echo {
				req.Header = http.Header{}
			}
			resp, err := c.RoundTrip(req)
			if err == nil && url != s.URL+"/early" {
				if resp.StatusCode != http.StatusSwitchingProtocols {
					_, _ = io.Copy(io.Discard, resp.Body)
				}
			}
			if err == nil {
				resp.Body.Close()
			}
			assert.True(t, eventually(patience, func() bool { return ctx.hang.Load() == 0 }), "after %s: %d", url, ctx.hang.Load())
		}
	})
}
