package httpclient

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

// twice serves one request on its first connection, and hangs up on the second,
// after it has read its body or before.
func twice(t testing.TB, reads bool, seen *atomic.Int32) string {
	return "http://" + tcpServer(t, func(c net.Conn, n int) {
		r := bufio.NewReader(c)
		for i := 1; ; i++ {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if n == 1 && i == 2 && !reads {
				return
			}
			b, _ := io.ReadAll(req.Body)
			if len(b) > 0 {
				seen.Add(1)
			}
			if n == 1 && i == 2 {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(b))+"\r\n\r\n"+string(b))
		}
	})
}

func TestEachBodyOfARepeatedRequestIsClosedOnce(t *testing.T) {
	for _, reads := range []bool{false, true} {
		var seen atomic.Int32
		url := twice(t, reads, &seen)
		c := clientOf(t, nil)
		fetch(t, c, url)
		bodies := []*countedBody{bodyOf("body")}
		req := newReq(t, "PUT", url, nil)
		req.Body, req.ContentLength = bodies[0], 4
		req.GetBody = func() (io.ReadCloser, error) {
			b := bodyOf("body")
			bodies = append(bodies, b)
			return b, nil
		}
		_, got := send(t, c, req)
		assert.Equal(t, "body", got)
		assert.EqualValues(t, 1, c.Stat().Retries)
		assert.Len(t, bodies, 2)
		for _, b := range bodies {
			b.closedOnce(t)
		}
		assert.Same(t, bodies[0], req.Body, "the request is as it was")
	}
}

func TestABodyThatCannotBeHadAgainIsNotSentAgain(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"no GetBody": nil,
		"GetBody fails": func() (io.ReadCloser, error) {
			return nil, errors.New("it is gone")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int32
			url := twice(t, true, &seen)
			c := clientOf(t, nil)
			fetch(t, c, url)
			body := bodyOf("body")
			req := newReq(t, "PUT", url, nil)
			req.Body, req.ContentLength, req.GetBody = body, 4, getBody
			err := failing(t, c, req)
			if getBody != nil {
				assert.ErrorContains(t, err, "it is gone")
			}
			body.closedOnce(t)
			assert.EqualValues(t, 1, seen.Load())
			allFree(t, c)
			fetch(t, c, url)
		})
	}
}

func TestAPostThatWasReadIsSentOnce(t *testing.T) {
	var seen atomic.Int32
	url := twice(t, true, &seen)
	c := clientOf(t, nil)
	fetch(t, c, url)
	body := bodyOf("body")
	req := newReq(t, "POST", url, nil)
	req.Body, req.ContentLength = body, 4
	req.GetBody = func() (io.ReadCloser, error) { return bodyOf("body"), nil }
	failing(t, c, req)
	assert.EqualValues(t, 1, seen.Load())
	assert.Zero(t, c.Stat().Retries)
	body.closedOnce(t)
}

func TestAfterCloseARequestFailsAndItsBodyIsClosed(t *testing.T) {
	c := clientOf(t, nil)
	assert.NoError(t, c.Close(t.Context()))
	body := bodyOf("x")
	assert.ErrorIs(t, failing(t, c, newReq(t, "POST", "http://name.test", body)), ErrClosed)
	body.closedOnce(t)
}
