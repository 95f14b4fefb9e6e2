package httpclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What of HTTP/2's frames is needed here (RFC 9113, section 6).
const (
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6
	frameGoAway   = 7

	flagEndStream = 1 // of data and headers
	flagAck       = 1 // of settings and pings
	flagEndHeader = 4

	noError       = 0
	protocolError = 1
	internalError = 2
	refusedStream = 7
)

// frames is a server's connection.
type frames struct {
	net.Conn
	number int
}

func (f frames) write(kind, flags byte, stream uint32, payload ...byte) {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	_, _ = f.Write(append(b, payload...))
}

func (f frames) reset(stream, code uint32) {
	f.write(frameReset, 0, stream, binary.BigEndian.AppendUint32(nil, code)...)
}

func (f frames) goAway(last, code uint32) {
	f.write(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), code)...)
}

// ok answers 200 without a body.
func (f frames) ok(stream uint32) { f.write(frameHeaders, flagEndHeader|flagEndStream, stream, 0x88) }

// frameServer speaks HTTP/2 in clear, and leaves it to answer what to do about a
// request that has come completely.
func frameServer(t testing.TB, answer func(f frames, stream uint32)) string {
	return "http://" + tcpServer(t, func(c net.Conn, n int) {
		f := frames{c, n}
		r := bufio.NewReader(c)
		if _, err := io.CopyN(io.Discard, r, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
			return
		}
		f.write(frameSettings, 0, 0)
		for {
			head := make([]byte, 9)
			if _, err := io.ReadFull(r, head); err != nil {
				return
			}
			payload := make([]byte, binary.BigEndian.Uint32(head)>>8)
			if _, err := io.ReadFull(r, payload); err != nil {
				return
			}
			kind, flags := head[3], head[4]
			switch {
			case kind == frameSettings && flags&flagAck == 0:
				f.write(frameSettings, flagAck, 0)
			case kind == framePing && flags&flagAck == 0:
				f.write(framePing, flagAck, 0, payload...)
			case kind <= frameHeaders && flags&flagEndStream != 0:
				answer(f, binary.BigEndian.Uint32(head[5:]))
			}
		}
	})
}

// inClear has a Client speak HTTP/2 without TLS.
func inClear(cfg *Config) {
	cfg.Transport.Protocols = protocols((*http.Protocols).SetUnencryptedHTTP2)
}

func TestARefusedStreamIsSentAgainWhateverTheMethod(t *testing.T) {
	var requests atomic.Int32
	url := frameServer(t, func(f frames, stream uint32) {
		if requests.Add(1) == 1 {
			f.reset(stream, refusedStream)
			return
		}
		f.ok(stream)
	})
	for _, body := range []io.Reader{nil, strings.NewReader("to be had again")} {
		requests.Store(0)
		c := clientOf(t, nil, inClear)
		resp, _ := send(t, c, newReq(t, "POST", url, body))
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.EqualValues(t, 2, requests.Load())
		assert.EqualValues(t, 1, c.Stat().Retries)
	}
	requests.Store(0)
	c := clientOf(t, nil, inClear)
	body := bodyOf("not to be had again")
	err := failing(t, c, newReq(t, "POST", url, body))
	assert.ErrorContains(t, err, "REFUSED_STREAM")
	assert.EqualValues(t, 1, requests.Load())
	body.closedOnce(t)
}

func TestAStreamThatIsResetIsNotSentAgain(t *testing.T) {
	for _, code := range []uint32{protocolError, internalError} {
		for _, method := range []string{"GET", "POST"} {
			var requests atomic.Int32
			url := frameServer(t, func(f frames, stream uint32) {
				requests.Add(1)
				f.reset(stream, code)
			})
			c := clientOf(t, nil, inClear)
			err := failing(t, c, newReq(t, method, url, nil))
			e, ok := errors.AsType[*Error](err)
			require.True(t, ok)
			if method == "POST" {
				assert.EqualValues(t, 1, requests.Load(), "it was executed, maybe: %v", err)
				assert.Equal(t, 1, e.Attempts)
			}
		}
	}
}

func TestAfterGoAwayRequestsUseAnotherConnection(t *testing.T) {
	var mu sync.Mutex
	var used []int
	url := frameServer(t, func(f frames, stream uint32) {
		mu.Lock()
		defer mu.Unlock()
		used = append(used, f.number)
		f.goAway(stream, noError)
		f.ok(stream)
	})
	c := clientOf(t, nil, inClear)
	for range 3 {
		_, _ = send(t, c, newReq(t, "POST", url, nil))
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, []int{1, 2, 3}, used)
	assert.Zero(t, c.Stat().Retries)
}

func TestARequestThatGoAwayLeavesOutIsSentAgain(t *testing.T) {
	var requests atomic.Int32
	url := frameServer(t, func(f frames, stream uint32) {
		if requests.Add(1) == 1 {
			f.goAway(0, noError)
			return
		}
		f.ok(stream)
	})
	c := clientOf(t, nil, inClear)
	resp, _ := send(t, c, newReq(t, "POST", url, strings.NewReader("x")))
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.EqualValues(t, 2, requests.Load())
	assert.EqualValues(t, 2, onlyHost(t, c).Conns.Opened)
}

func TestAServersShutdownWaitsForWhatIsInFlight(t *testing.T) {
	onBoth(t, func(t *testing.T, h2 bool) {
		arrived, finish := make(chan bool, 5), make(chan bool)
		s := serverOf(t, h2, func(w http.ResponseWriter, r *http.Request) {
			arrived <- true
			<-finish
			_, _ = io.WriteString(w, "ok")
		})
		c := clientOf(t, s)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { assert.Equal(t, "ok", fetch(t, c, s.URL)) })
		}
		for range 5 {
			<-arrived
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			assert.NoError(t, s.Config.Shutdown(ctx))
		})
		close(finish)
		wg.Wait()
		assert.Zero(t, c.Stat().Retries)
		assert.True(t, eventually(patience, func() bool { return onlyHost(t, c).Conns.Total == 0 }), "closed with the server's")
	})
}

// together50 sends 50 requests at once to a server with a limit of streams.
func together50(t *testing.T, limit int, atOnce int, maxConns int) (most int32, host HostStat) {
	var now, peak atomic.Int32
	var once sync.Once
	reached := make(chan bool)
	s := unstarted(true, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		if n == int32(atOnce) {
			once.Do(func() { close(reached) })
		}
		select {
		case <-reached:
		case <-r.Context().Done():
		}
	})
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: limit}
	start(t, s, true)
	c := clientOf(t, s, func(cfg *Config) { cfg.MaxConnsPerHost = maxConns })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			resp, err := c.RoundTrip(newReq(t, "POST", s.URL, nil))
			if assert.NoError(t, err) {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	return peak.Load(), onlyHost(t, c)
}

func TestFiftyRequestsFitOnOneConnectionWithAHundredStreams(t *testing.T) {
	most, host := together50(t, 100, 50, 0)
	assert.EqualValues(t, 50, most)
	assert.EqualValues(t, 1, host.Conns.Opened)
	assert.True(t, host.HTTP2)
}

func TestFiftyRequestsUseAllConnectionsWithOneStreamEach(t *testing.T) {
	most, host := together50(t, 1, 8, 8)
	assert.EqualValues(t, 8, most)
	assert.EqualValues(t, 8, host.Conns.Opened)
	_, host = together50(t, 1, 1, 1)
	assert.EqualValues(t, 1, host.Conns.Opened)
}

func TestFiftyRequestsUseAsManyConnectionsAsTheirStreamsNeed(t *testing.T) {
	most, host := together50(t, 10, 50, 0)
	assert.EqualValues(t, 50, most)
	assert.GreaterOrEqual(t, host.Conns.Opened, int64(5))
	assert.LessOrEqual(t, host.Conns.Opened, int64(6), "one may have been asked for too early")
}
