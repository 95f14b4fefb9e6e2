package httpclient

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestAServerThatClosesAfterEachResponseIsNotKeptAwayFromAfterARestart(t *testing.T) {
	addr := refusing(t)
	c := clientOf(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	failing(t, c, newReq(t, "GET", "http://"+addr, nil).WithContext(ctx))
	failures := onlyHost(t, c).Conns.OpenFailures
	assert.Positive(t, failures)

	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skip("the port was taken:", err)
	}
	s := unstarted(false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "ok")
	})
	s.Listener.Close()
	s.Listener = l
	start(t, s, false)
	for range 20 {
		assert.Equal(t, "ok", fetch(t, c, "http://"+addr))
	}
	assert.Zero(t, onlyHost(t, c).Conns.OpenFailures)
}
