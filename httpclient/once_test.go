package httpclient

import (
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func listenLocal(t testing.TB, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	return ln
}

// What the server's limit is nobody knows yet.
func TestTheFirstRequestsToAnHTTP2HostShareOneConnection(t *testing.T) {
	t.Parallel()
	const n = 20
	ln := listenLocal(t, "127.0.0.1:0")
	serveOn(t, http2, ln, &http.Server{Handler: meeting(n, nil)})
	c := newClient(t, http2, Config{})
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := get(t.Context(), c, urlOf(http2, ln.Addr().String())+"/meet")
			errs <- err
		}()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	assert.EqualValues(t, 1, c.Stat().Hosts[0].Conns.Opened)
}
