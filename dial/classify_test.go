package dial

import (
	"path/filepath"
	"testing"

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
}
