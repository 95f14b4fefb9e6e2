package dial

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/health"
)

func TestHealthUnderstandsDialErrors(t *testing.T) {
	d := newDialer(t, Config{})
	for _, tt := range []struct{ network, address string }{
		{"udp", "localhost:1"}, {"tcp", "redis"}, {"tcp", "redis:"}, {"tcp", "redis:0"}, {"tcp", "redis:65536"},
		{"tcp", "::1"}, {"tcp", "redis://redis:6379"}, {"unix", ""},
	} {
		_, err := d.DialContext(t.Context(), tt.network, tt.address)
		require.Error(t, err)
		assert.True(t, health.Permanent(err), "%v", err)
	}

	_, err := d.DialContext(t.Context(), "tcp", closedPort(t))
	assert.False(t, health.Permanent(err))
	assert.True(t, health.SafeToRetry(err), "nothing was written")

	_, err = d.DialContext(t.Context(), "unix", filepath.Join(t.TempDir(), "none"))
	assert.False(t, health.Permanent(err), "the server may come up")

	srv := tlsServer(t)
	_, err = d.DialTLSContext(t.Context(), "tcp", srv.addr)
	assert.True(t, health.Permanent(err), "%v", err)
	assert.True(t, health.SafeToRetry(err), "nothing of the caller's was sent")

	_, err = d.DialTLSContext(t.Context(), "tcp", ":443")
	assert.True(t, health.Permanent(err), "%v", err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.DialContext(ctx, "tcp", closedPort(t))
	assert.Equal(t, health.Canceled, health.Classify(err))
	assert.True(t, health.SafeToRetry(err), "nothing was sent before it was canceled, either")
}

func TestHealthTakesOurOwnTimeoutForSilence(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0") // never accepts, so the handshake hangs
	defer ln.Close()
	d := newDialer(t, Config{Timeout: 400 * time.Millisecond})
	_, err := d.DialTLSContext(t.Context(), "tcp", ln.Addr().String())
	assert.Equal(t, health.Path, health.Classify(err), "%v", err)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = d.DialTLSContext(ctx, "tcp", ln.Addr().String())
	assert.Equal(t, health.Canceled, health.Classify(err), "%v", err)
}
