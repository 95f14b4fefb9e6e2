package grpcclient

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/dial"
)

func TestAConfigThatIsWrongNamesItsFieldAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	d, err := dial.New(dial.Config{})
	require.NoError(t, err)
	multipath, err := dial.New(dial.Config{MultipathTCP: true, UserTimeout: -1})
	require.NoError(t, err)
	for want, cfg := range map[string]Config{
		"Config.DetectWithin is 1s: use 2s or more":               {DetectWithin: time.Second},
		"Config.DetectWithin is 10s beside a Dialer":              {DetectWithin: 10 * time.Second, Dialer: d},
		"Config.Dialer has no DetectWithin":                       {Dialer: multipath},
		"Config.ServerMinPing is 10ns: use what the server's":     {ServerMinPing: 10},
		"Config.PingIdle is set but ServerMinPing isn't: say":     {PingIdle: true},
		"Config.MaxBackoff is 1ms: use 10ms or more":              {MaxBackoff: time.Millisecond},
		`HealthService is "x" but HealthCheck is off: set it, or`: {HealthService: "x"},
	} {
		_, err := DialOptions(cfg)
		assert.ErrorContains(t, err, want)
		_, err = NewPool("dns:///x", 1, PoolConfig{Config: cfg})
		assert.ErrorContains(t, err, want)
	}
}

func TestAPoolConfigThatIsWrongNamesItsFieldAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]PoolConfig{
		"PoolConfig.MaxConnLifetime is 30ns, less than a millisecond":              {MaxConnLifetime: 30},
		"PoolConfig.MaxConnLifetimeJitter is 1m0s but MaxConnLifetime is off: set": {MaxConnLifetime: -1, MaxConnLifetimeJitter: time.Minute},
		"PoolConfig.MaxConnLifetimeJitter is 1h0m0s, more than MaxConnLifetime, ":  {MaxConnLifetimeJitter: time.Hour},
	} {
		_, err := NewPool("dns:///x", 1, cfg)
		assert.ErrorContains(t, err, want)
	}
	_, err := NewPool("dns:///x", 0, PoolConfig{})
	assert.ErrorContains(t, err, "NewPool's n is 0: it is how many connections to have")
	_, err = NewPool("dns:///x", 1, PoolConfig{})
	assert.ErrorContains(t, err, "no transport security set")
}

func TestPingsComeNoMoreOftenThanEveryServerAllows(t *testing.T) {
	t.Parallel()
	params := func(cfg Config) (time.Duration, bool, bool) {
		cfg, _, err := cfg.complete()
		require.NoError(t, err)
		p, ok := cfg.keepalive()
		return p.Time, p.PermitWithoutStream, ok
	}
	every, idle, ok := params(Config{})
	assert.True(t, ok)
	assert.False(t, idle)
	assert.Greater(t, every, 5*time.Minute)
	every, idle, _ = params(Config{ServerMinPing: time.Minute, PingIdle: true})
	assert.True(t, idle)
	assert.Equal(t, 66*time.Second, every)
	every, _, _ = params(Config{ServerMinPing: time.Second})
	assert.Equal(t, 10*time.Second, every)
	for _, rare := range []time.Duration{10 * 365 * 24 * time.Hour, math.MaxInt64 / 11 * 10, math.MaxInt64/11*10 + 1e9, math.MaxInt64} {
		every, _, _ = params(Config{ServerMinPing: rare})
		assert.GreaterOrEqual(t, every, rare)
	}
	_, _, ok = params(Config{ServerMinPing: -1})
	assert.False(t, ok)
	slow, err := dial.New(dial.Config{SlowReaders: true})
	require.NoError(t, err)
	_, _, ok = params(Config{Dialer: slow})
	assert.False(t, ok, "gRPC would set a user timeout")
}

func TestLifetimesAreDrawnWithinTheJitter(t *testing.T) {
	t.Parallel()
	cfg, _, err := PoolConfig{MaxConnLifetime: time.Hour}.complete(1)
	require.NoError(t, err)
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := cfg.lifetime()
		seen[d] = true
		require.LessOrEqual(t, d, time.Hour)
		require.Greater(t, d, 54*time.Minute)
	}
	assert.Greater(t, len(seen), 900)
	cfg, _, err = PoolConfig{MaxConnLifetime: -1}.complete(1)
	require.NoError(t, err)
	assert.Zero(t, cfg.lifetime())
}
