package httpclient

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAServerThatClosesAfterEachResponseIsNotKeptAwayFromAfterARestart(t *testing.T) {
	addr, listen := refusingUntil(t)
	c := clientOf(t, nil)
	failing(t, c, newReq(t, "GET", "http://"+addr, nil).WithContext(untilOpeningFails(t, c, 3)))

	l := listen()
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
