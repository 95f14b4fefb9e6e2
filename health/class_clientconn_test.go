package health

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A request of which nothing was written wasn't executed, whatever its method.
// The type that says so is not exported; this finds out if it changes.
func TestARequestOfWhichNothingWasWrittenIsSafeToRepeat(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	var transport http.Transport
	cc, err := transport.NewClientConn(t.Context(), "http", ln.Addr().String())
	require.NoError(t, err)
	defer cc.Close()
	require.NoError(t, cc.Reserve())
	c := <-accepted
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	ended := make(chan struct{})
	cc.SetStateHook(func(*http.ClientConn) {
		if cc.Err() != nil {
			select {
			case <-ended:
			default:
				close(ended)
			}
		}
	})
	c.Close() // a reset
	<-ended
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+ln.Addr().String(), strings.NewReader("order"))
	require.NoError(t, err)
	_, err = cc.RoundTrip(req)
	require.Error(t, err)
	assert.True(t, SafeToRetry(err), "%T %v", err, err)
}

// Nothing is known of a request that the server may have read.
func TestARequestThatWasSentIsNotSafeToRepeat(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.ReadAtLeast(c, make([]byte, 1024), 10)
		c.Close()
	}()
	var transport http.Transport
	cc, err := transport.NewClientConn(t.Context(), "http", ln.Addr().String())
	require.NoError(t, err)
	defer cc.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+ln.Addr().String(), strings.NewReader("order"))
	require.NoError(t, err)
	_, err = cc.RoundTrip(req)
	require.Error(t, err)
	assert.False(t, SafeToRetry(err), "%T %v", err, err)
}
