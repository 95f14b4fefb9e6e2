package httpclient

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzResponse feeds arbitrary bytes as the response to a request: nothing panics
// or hangs, and the slot is free afterwards.
func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\nrest",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
		"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=99999999999999999999\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nKeep-Alive: max=1, timeout=\"0\"\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\nunasked",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	served, stop := make(chan []byte), make(chan bool)
	addr := tcpServer(f, func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		if readHeader(r) == "" {
			return
		}
		select {
		case b := <-served:
			_, _ = c.Write(b)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, r)
		case <-stop:
		}
	})
	f.Cleanup(func() { close(stop) })
	log.SetOutput(io.Discard) // net/http complains of what comes unasked
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
	f.Fuzz(func(t *testing.T, reply []byte, head bool) {
		// One for each, or else a pool would wait longer and longer.
		c := clientOf(t, nil, func(cfg *Config) { cfg.MaxConnsPerHost, cfg.MaxAttempts = 1, 1 })
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		method := http.MethodPost // which isn't repeated
		if head {
			method = http.MethodHead
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://"+addr, nil)
		require.NoError(t, err)
		done := make(chan bool)
		go func() {
			defer close(done)
			select {
			case served <- reply:
			case <-ctx.Done():
			}
		}()
		resp, err := c.RoundTrip(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
			resp.Body.Close()
		}
		require.NoError(t, ctx.Err(), "it hung")
		cancel()
		<-done
		allFree(t, c)
	})
}
