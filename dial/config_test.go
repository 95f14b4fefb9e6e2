package dial

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/holdfast-go/holdfast/health"
)

func keepAlive(idle, interval time.Duration, count int) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: count}
}

var keepAliveOff = net.KeepAliveConfig{Idle: -1}

// nonsense has Configs that New must refuse, with all that the error must name.
var nonsense = []struct {
	name string
	cfg  Config
	want []string
}{
	{"DetectWithin negative", Config{DetectWithin: -1}, []string{"Config.DetectWithin is -1ns"}},
	{"DetectWithin under 2s", Config{DetectWithin: 1999 * time.Millisecond}, []string{"Config.DetectWithin is 1.999s", "use 2s"}},
	{"DetectWithin huge", Config{DetectWithin: math.MaxInt64}, []string{"Config.DetectWithin", "22h45m13s"}},

	{"KeepAlive without Enable", Config{KeepAlive: net.KeepAliveConfig{Idle: time.Second}}, []string{"Config.KeepAlive.Enable is false", "set Enable"}},
	{"KeepAlive off with parts", Config{KeepAlive: net.KeepAliveConfig{Idle: -1, Count: 3}}, []string{"Config.KeepAlive is off", "Count of 3"}},
	{"KeepAlive.Idle negative", Config{KeepAlive: keepAlive(-1, 0, 0)}, []string{"Config.KeepAlive.Idle is -1ns"}},
	{"KeepAlive.Idle truncated to 0", Config{KeepAlive: keepAlive(time.Millisecond, 0, 0)}, []string{"Config.KeepAlive.Idle is 1ms", "use 1s"}},
	{"KeepAlive.Idle fraction", Config{KeepAlive: keepAlive(1500*time.Millisecond, 0, 0)}, []string{"Config.KeepAlive.Idle is 1.5s", "use 2s"}},
	{"KeepAlive.Idle huge", Config{KeepAlive: keepAlive(32768*time.Second, 0, 0)}, []string{"Config.KeepAlive.Idle", "9h6m7s"}},
	{"KeepAlive.Interval negative", Config{KeepAlive: keepAlive(0, -1, 0)}, []string{"Config.KeepAlive.Interval is -1ns"}},
	{"KeepAlive.Interval truncated to 0", Config{KeepAlive: keepAlive(0, 1, 0)}, []string{"Config.KeepAlive.Interval is 1ns", "use 1s"}},
	{"KeepAlive.Interval huge", Config{KeepAlive: keepAlive(0, math.MaxInt64, 0)}, []string{"Config.KeepAlive.Interval", "9h6m7s"}},
	{"KeepAlive.Count negative", Config{KeepAlive: keepAlive(0, 0, -1)}, []string{"Config.KeepAlive.Count is -1"}},
	{"KeepAlive.Count huge", Config{KeepAlive: keepAlive(0, 0, 128)}, []string{"Config.KeepAlive.Count is 128", "1 to 127"}},

	{"UserTimeout truncated to 0", Config{UserTimeout: 1}, []string{"Config.UserTimeout is 1ns", "set UserTimeout to 2s"}},
	{"UserTimeout truncated to 0, SlowReaders", Config{UserTimeout: 1, SlowReaders: true}, []string{"Config.UserTimeout is 1ns", "set UserTimeout to 10s or more"}},
	{"UserTimeout fraction", Config{UserTimeout: 2500 * time.Millisecond}, []string{"Config.UserTimeout is 2.5s", "Config.KeepAlive, in whole seconds", "set UserTimeout to 2s"}},
	{"UserTimeout fraction of a millisecond, SlowReaders", Config{UserTimeout: time.Minute + 1, SlowReaders: true}, []string{"Config.UserTimeout is 1m0.000000001s", "milliseconds", "use 1m0.001s"}},
	{"UserTimeout huge", Config{UserTimeout: 30 * 24 * time.Hour}, []string{"Config.UserTimeout", "596h31m23.647s"}},
	{"UserTimeout more than keep-alive", Config{UserTimeout: 48 * time.Hour}, []string{"Config.UserTimeout", "22h45m13s"}},

	{"DetectWithin, KeepAlive off", Config{DetectWithin: 5 * time.Second, KeepAlive: keepAliveOff},
		[]string{"Config.DetectWithin is 5s", "Config.KeepAlive is off"}},
	{"UserTimeout, KeepAlive off", Config{UserTimeout: 5 * time.Second, KeepAlive: keepAliveOff},
		[]string{"Config.UserTimeout is 5s", "Config.KeepAlive is off"}},
	{"KeepAlive beyond DetectWithin", Config{DetectWithin: 10 * time.Second, KeepAlive: keepAlive(5*time.Second, 0, 0)},
		[]string{"Config.KeepAlive", "5s + 3 × 2s = 11s", "Config.DetectWithin is 10s", "set DetectWithin to 11s"}},
	{"UserTimeout below KeepAlive", Config{UserTimeout: 9 * time.Second, KeepAlive: keepAlive(4*time.Second, 2*time.Second, 3)},
		[]string{"Config.UserTimeout is 9s", "Config.KeepAlive", "4s + 3 × 2s = 10s", "set UserTimeout to 10s"}},
	{"UserTimeout above KeepAlive", Config{UserTimeout: 30 * time.Second, KeepAlive: keepAlive(15*time.Second, 15*time.Second, 3)},
		[]string{"Config.UserTimeout is 30s", "Config.KeepAlive", "15s + 3 × 15s = 1m", "set UserTimeout to 1m"}},
	{"UserTimeout beyond DetectWithin", Config{UserTimeout: 20 * time.Second, DetectWithin: 10 * time.Second},
		[]string{"Config.UserTimeout is 20s", "Config.DetectWithin is 10s", "set UserTimeout to no more than that"}},
	{"KeepAlive beyond what UserTimeout holds", Config{KeepAlive: keepAlive(maxKeepAlive, maxKeepAlive, 127)},
		[]string{"Config.KeepAlive", "Config.UserTimeout", "596h31m23.647s"}},
	{"backstop below KeepAlive", Config{SlowReaders: true, UserTimeout: 5 * time.Second},
		[]string{"Config.UserTimeout is 5s", "Config.SlowReaders", "4s + 3 × 2s = 10s", "set UserTimeout to 10s or more"}},
	{"backstop beyond DetectWithin", Config{SlowReaders: true, UserTimeout: 15 * time.Minute, DetectWithin: 10 * time.Second, Unguarded: true},
		[]string{"Config.UserTimeout is 15m", "Config.SlowReaders", "Config.Unguarded", "Config.DetectWithin is 10s", "set DetectWithin to 15m"}},
	{"MultipathTCP with a user timeout", Config{MultipathTCP: true},
		[]string{"Config.MultipathTCP", "Config.UserTimeout of 10s", "set UserTimeout to -1"}},
	{"MultipathTCP with DetectWithin", Config{MultipathTCP: true, UserTimeout: -1, DetectWithin: 5 * time.Second},
		[]string{"Config.DetectWithin is 5s", "Config.MultipathTCP", "net.mptcp.close_timeout", "leave DetectWithin zero"}},
	{"MultipathTCP with FastUnreachable", Config{MultipathTCP: true, FastUnreachable: true, UserTimeout: -1},
		[]string{"Config.MultipathTCP", "Config.FastUnreachable"}},

	{"Guard and Unguarded", Config{Guard: new(health.Guard), Unguarded: true}, []string{"Config.Unguarded", "Config.Guard"}},
	{"Unguarded and FreshFor", Config{Unguarded: true, FreshFor: time.Minute}, []string{"Config.Unguarded", "Config.FreshFor is 1m0s"}},
	{"FreshFor under 1s", Config{FreshFor: 999 * time.Millisecond}, []string{"Config.FreshFor is 999ms", "use 1s or more"}},
	{"FreshFor beyond DetectWithin", Config{FreshFor: 11 * time.Second}, []string{"Config.FreshFor is 11s", "Config.DetectWithin is 10s", "set FreshFor to less"}},
	{"FreshFor, KeepAlive off", Config{FreshFor: time.Second, KeepAlive: keepAliveOff}, []string{"Config.FreshFor is 1s", "Config.KeepAlive off", "set FreshFor to zero"}},
	{"FreshFor, MultipathTCP", Config{FreshFor: time.Second, MultipathTCP: true, SlowReaders: true}, []string{"Config.FreshFor is 1s", "Config.MultipathTCP"}},
	{"RTOMax under 1s", Config{RTOMax: 999 * time.Millisecond}, []string{"Config.RTOMax is 999ms", "use 1s or more"}},
	{"RTOMax huge", Config{RTOMax: 121 * time.Second}, []string{"Config.RTOMax is 2m1s", "no more than 2m"}},
	{"RTOMax fraction of a millisecond", Config{RTOMax: time.Second + 1}, []string{"Config.RTOMax is 1.000000001s", "use 1.001s"}},
	{"RTOMax for unguarded slow readers", Config{RTOMax: 2 * time.Second, SlowReaders: true, Unguarded: true},
		[]string{"Config.RTOMax is 2s", "neither a user timeout nor a guard", "15 retransmissions, about 30s"}},
	{"RTOMax, KeepAlive off", Config{RTOMax: 2 * time.Second, KeepAlive: keepAliveOff}, []string{"Config.RTOMax is 2s", "about 30s"}},
	{"RTOMax, MultipathTCP", Config{RTOMax: 2 * time.Second, MultipathTCP: true, SlowReaders: true}, []string{"Config.RTOMax is 2s"}},

	{"Timeout negative", Config{Timeout: -1}, []string{"Config.Timeout is -1ns"}},
	{"Timeout not above FallbackDelay", Config{Timeout: time.Second, FallbackDelay: time.Second},
		[]string{"Config.Timeout is 1s", "Config.FallbackDelay is 1s", "second address family"}},
	{"Timeout not above the default FallbackDelay", Config{Timeout: 300 * time.Millisecond},
		[]string{"Config.Timeout is 300ms", "Config.FallbackDelay is 300ms"}},
	{"FallbackDelay above the derived Timeout", Config{FallbackDelay: time.Minute},
		[]string{"Config.Timeout is 10s", "Config.FallbackDelay is 1m"}},

	{"ReadBuffer negative", Config{ReadBuffer: -1}, []string{"Config.ReadBuffer is -1"}},
	{"ReadBuffer huge", Config{ReadBuffer: math.MaxInt32}, []string{"Config.ReadBuffer is 2147483647", "1073741823"}},
	{"WriteBuffer negative", Config{WriteBuffer: -1}, []string{"Config.WriteBuffer is -1"}},
	{"WriteBuffer huge", Config{WriteBuffer: math.MaxInt32}, []string{"Config.WriteBuffer is 2147483647"}},
	{"LocalAddr with half an IP", Config{LocalAddr: &net.TCPAddr{IP: net.IP{127}}}, []string{"Config.LocalAddr.IP has 1 bytes"}},
	{"LocalAddr.Port negative", Config{LocalAddr: &net.TCPAddr{Port: -1}}, []string{"Config.LocalAddr.Port is -1"}},
	{"LocalAddr.Port huge", Config{LocalAddr: &net.TCPAddr{Port: 65536}}, []string{"Config.LocalAddr.Port is 65536"}},
	{"TLSConfig versions crossed", Config{TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12}},
		[]string{"Config.TLSConfig", "TLS 1.3", "TLS 1.2"}},
}

func TestNonsenseIsAnErrorThatNamesTheFields(t *testing.T) {
	for _, tt := range nonsense {
		t.Run(tt.name, func(t *testing.T) {
			d, err := New(tt.cfg)
			require.Error(t, err)
			assert.Nil(t, d)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			assert.Equal(t, 1, strings.Count(err.Error(), "\n")+1, "one mistake, one error: %v", err)
		})
	}
}

func TestEveryPresetMayBeUnguarded(t *testing.T) {
	for _, cfg := range []Config{HighlyAvailable(), RarelyUsed(), DistributedNodes()} {
		cfg.Unguarded = true
		_, err := New(cfg)
		assert.NoError(t, err)
	}
}

var advisedUserTimeout = regexp.MustCompile(`set UserTimeout to ([0-9hms.]+)`)

func TestTheUserTimeoutThatAnErrorAdvisesIsRight(t *testing.T) {
	advised := 0
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			UserTimeout:  time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "UserTimeout")),
			DetectWithin: time.Duration(rapid.SampledFrom([]int{0, 30, 60}).Draw(t, "DetectWithin")) * time.Second,
			SlowReaders:  rapid.Bool().Draw(t, "SlowReaders"),
			Unguarded:    rapid.Bool().Draw(t, "Unguarded"),
		}
		if rapid.Bool().Draw(t, "KeepAlive") {
			cfg.KeepAlive = keepAlive(4*time.Second, 2*time.Second, 3)
		}
		_, err := New(cfg)
		if err == nil {
			return
		}
		if m := advisedUserTimeout.FindStringSubmatch(err.Error()); m != nil {
			advised++
			cfg.UserTimeout, err = time.ParseDuration(m[1])
			require.NoError(t, err)
			_, err = New(cfg)
			require.NoError(t, err)
		}
	})
	assert.Positive(t, advised)
}

func TestEveryConfigFieldIsAccountedFor(t *testing.T) {
	// Every value of these makes sense, or is checked with another field.
	free := map[string]bool{"SlowReaders": true, "FastUnreachable": true, "Resolver": true, "Control": true, "Trace": true}
	for f := range reflect.TypeFor[Config]().Fields() {
		tested := free[f.Name]
		for _, tt := range nonsense {
			tested = tested || strings.HasPrefix(tt.name, f.Name)
		}
		assert.True(t, tested, "no test gives Config.%s a nonsensical value", f.Name)
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := New(Config{DetectWithin: -1, Timeout: -1, ReadBuffer: -1, WriteBuffer: -1, UserTimeout: maxUserTimeout + 1})
	var joined interface{ Unwrap() []error }
	require.ErrorAs(t, err, &joined)
	assert.Len(t, joined.Unwrap(), 5)
}

func TestDerivedValues(t *testing.T) {
	s := time.Second
	for _, tt := range []struct {
		name    string
		cfg     Config
		ka      net.KeepAliveConfig
		ut      time.Duration
		within  time.Duration
		timeout time.Duration
	}{
		{"zero", Config{}, keepAlive(4*s, 2*s, 3), 10 * s, 10 * s, 10 * s},
		{"2s", Config{DetectWithin: 2 * s}, keepAlive(s, s, 1), 2 * s, 2 * s, 2 * s},
		{"2.9s", Config{DetectWithin: 2900 * time.Millisecond}, keepAlive(s, s, 1), 2 * s, 2900 * time.Millisecond, 2900 * time.Millisecond},
		{"3s", Config{DetectWithin: 3 * s}, keepAlive(s, s, 2), 3 * s, 3 * s, 3 * s},
		{"4s", Config{DetectWithin: 4 * s}, keepAlive(s, s, 3), 4 * s, 4 * s, 4 * s},
		{"5s", Config{DetectWithin: 5 * s}, keepAlive(2*s, s, 3), 5 * s, 5 * s, 5 * s},
		{"30s", Config{DetectWithin: 30 * s}, keepAlive(12*s, 6*s, 3), 30 * s, 30 * s, 15 * s},
		{"1m", Config{DetectWithin: time.Minute}, keepAlive(24*s, 12*s, 3), time.Minute, time.Minute, 15 * s},
		{"5m", Config{DetectWithin: 5 * time.Minute}, keepAlive(120*s, 60*s, 3), 5 * time.Minute, 5 * time.Minute, 15 * s},
		{"the longest", Config{DetectWithin: maxDetectWithin}, keepAlive(32767*s, 16382*s, 3), maxDetectWithin, maxDetectWithin, 15 * s},
		{"UserTimeout alone", Config{UserTimeout: 5 * s}, keepAlive(2*s, s, 3), 5 * s, 5 * s, 5 * s},
		{"UserTimeout tighter than DetectWithin", Config{DetectWithin: 10 * s, UserTimeout: 5 * s}, keepAlive(2*s, s, 3), 5 * s, 10 * s, 10 * s},
		{"keep-alive on", Config{KeepAlive: net.KeepAliveConfig{Enable: true}}, keepAlive(4*s, 2*s, 3), 10 * s, 10 * s, 10 * s},
		{"30m::10", Config{KeepAlive: keepAlive(30*time.Minute, 0, 10)}, keepAlive(30*time.Minute, 2*s, 10), 30*time.Minute + 20*s, 30*time.Minute + 20*s, 15 * s},
		{"keep-alive tighter than DetectWithin", Config{DetectWithin: 10 * s, KeepAlive: keepAlive(2*s, s, 2)}, keepAlive(2*s, s, 2), 4 * s, 10 * s, 10 * s},
		{"no user timeout", Config{UserTimeout: -1}, keepAlive(4*s, 2*s, 3), -1, 10 * s, 10 * s},
		{"slow readers", Config{SlowReaders: true, DetectWithin: 5 * s}, keepAlive(2*s, s, 3), -1, 5 * s, 5 * s},
		{"slow readers with a backstop", Config{SlowReaders: true, UserTimeout: 15 * time.Minute}, keepAlive(4*s, 2*s, 3), 15 * time.Minute, 10 * s, 10 * s},
		{"slow readers with a backstop beyond DetectWithin", Config{SlowReaders: true, UserTimeout: 15 * time.Minute, DetectWithin: 5 * s}, keepAlive(2*s, s, 3), 15 * time.Minute, 5 * s, 5 * s},
		{"unguarded slow readers with a backstop", Config{SlowReaders: true, UserTimeout: 15 * time.Minute, Unguarded: true}, keepAlive(4*s, 2*s, 3), 15 * time.Minute, 15 * time.Minute, 15 * s},
		{"multipath", Config{MultipathTCP: true, UserTimeout: -1}, keepAlive(4*s, 2*s, 3), -1, 0, 10 * s},
		{"multipath for slow readers", Config{MultipathTCP: true, SlowReaders: true}, keepAlive(4*s, 2*s, 3), -1, 0, 10 * s},
		{"off", Config{KeepAlive: keepAliveOff}, net.KeepAliveConfig{Idle: -1, Interval: -1, Count: -1}, -1, 0, 10 * s},
		{"Timeout longer than the user timeout", Config{Timeout: time.Hour}, keepAlive(4*s, 2*s, 3), 10 * s, 10 * s, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := New(tt.cfg)
			require.NoError(t, err)
			got := d.Config()
			assert.Equal(t, tt.ka, got.KeepAlive)
			assert.Equal(t, tt.ut, got.UserTimeout)
			assert.Equal(t, tt.within, got.DetectWithin)
			assert.Equal(t, tt.timeout, got.Timeout)
		})
	}
}

func TestWhatTheGuardNeedsIsDerived(t *testing.T) {
	s := time.Second
	for _, tt := range []struct {
		name     string
		cfg      Config
		freshFor time.Duration
		rtoMax   time.Duration
	}{
		{"zero", Config{}, 5 * s, s},
		{"2s", Config{DetectWithin: 2 * s}, s, s},
		{"2.9s", Config{DetectWithin: 2900 * time.Millisecond}, 1450 * time.Millisecond, s},
		{"UserTimeout alone", Config{UserTimeout: 6 * s}, 3 * s, s},
		{"FreshFor as long as DetectWithin", Config{FreshFor: 10 * s}, 10 * s, s},
		{"FreshFor negative", Config{FreshFor: -5}, -5, s},
		{"no user timeout", Config{UserTimeout: -1}, 5 * s, s},
		{"slow readers", Config{SlowReaders: true}, 5 * s, s},
		{"patient slow readers", Config{SlowReaders: true, DetectWithin: 120 * s}, 60 * s, 10 * s},
		{"slow readers, RTOMax given", Config{SlowReaders: true, RTOMax: 3 * s}, 5 * s, 3 * s},
		{"RTOMax negative", Config{RTOMax: -2}, 5 * s, -2},
		{"RTOMax at its ends", Config{RTOMax: 120 * s}, 5 * s, 120 * s},
		{"unguarded", Config{Unguarded: true}, 0, s},
		{"unguarded without a user timeout", Config{Unguarded: true, UserTimeout: -1}, 0, -1},
		{"unguarded slow readers", Config{Unguarded: true, SlowReaders: true}, 0, -1},
		{"unguarded slow readers with a backstop", Config{Unguarded: true, SlowReaders: true, UserTimeout: 60 * s}, 0, s},
		{"off", Config{KeepAlive: keepAliveOff}, -1, -1},
		{"multipath", Config{MultipathTCP: true, SlowReaders: true}, -1, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := newDialer(t, tt.cfg).Config()
			assert.Equal(t, tt.freshFor, got.FreshFor)
			assert.Equal(t, tt.rtoMax, got.RTOMax)
			assert.Equal(t, got, newDialer(t, got).Config(), "a fixed point")
		})
	}
}

func TestWhatIsDerivedKeepsThePromiseAndIsAFixedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		within := time.Duration(rapid.Int64Range(int64(minDetectWithin), int64(maxDetectWithin)).Draw(t, "DetectWithin"))
		d, err := New(Config{DetectWithin: within})
		require.NoError(t, err)
		cfg := d.Config()
		ka := cfg.KeepAlive
		assert.Equal(t, cfg.UserTimeout, ka.Idle+ka.Interval*time.Duration(ka.Count))
		idle, busy := DetectionTime(ka, cfg.UserTimeout)
		assert.Equal(t, cfg.UserTimeout, idle)
		assert.Equal(t, cfg.UserTimeout, busy)
		assert.LessOrEqual(t, idle, within)
		assert.Greater(t, idle, within-time.Second)
		if within >= 4*time.Second {
			assert.Equal(t, 3, ka.Count, "two lost probes must do no harm")
		}

		again, err := New(cfg)
		require.NoError(t, err)
		assert.Equal(t, cfg, again.Config())
	})
}

func TestAnyConfigThatIsAcceptedDetectsWithinItsPromise(t *testing.T) {
	seconds := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(-1, 40).Draw(t, "seconds")) * time.Second
	})
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			DetectWithin: seconds.Draw(t, "DetectWithin"),
			UserTimeout:  seconds.Draw(t, "UserTimeout"),
			SlowReaders:  rapid.Bool().Draw(t, "SlowReaders"),
			Unguarded:    rapid.Bool().Draw(t, "Unguarded"),
			FreshFor:     seconds.Draw(t, "FreshFor"),
			RTOMax:       seconds.Draw(t, "RTOMax"),
			KeepAlive: net.KeepAliveConfig{
				Enable:   rapid.Bool().Draw(t, "Enable"),
				Idle:     seconds.Draw(t, "Idle"),
				Interval: seconds.Draw(t, "Interval"),
				Count:    rapid.IntRange(-1, 9).Draw(t, "Count"),
			},
		}
		d, err := New(cfg)
		if err != nil {
			return
		}
		got := d.Config()
		idle, busy := DetectionTime(got.KeepAlive, got.UserTimeout)
		if cfg.DetectWithin > 0 {
			if !cfg.SlowReaders || cfg.Unguarded { // else the guard does it
				assert.LessOrEqual(t, idle, cfg.DetectWithin)
			}
			if cfg.UserTimeout >= 0 && !cfg.SlowReaders {
				assert.LessOrEqual(t, busy, cfg.DetectWithin)
			}
		}
		if got.RTOMax > 0 {
			assert.True(t, busy != KernelLimit || d.policy != nil, "15 retransmissions would be all")
		}
		if cfg.UserTimeout > 0 {
			assert.Equal(t, cfg.UserTimeout, got.UserTimeout, "nothing is clamped")
		}
		again, err := New(got)
		require.NoError(t, err)
		assert.Equal(t, got, again.Config())
	})
}

func TestNewDoesNotTouchTheCallersConfig(t *testing.T) {
	mine := &tls.Config{ServerName: "a"}
	addr := &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 1}
	trace := new(Trace)
	cfg := Config{TLSConfig: mine, LocalAddr: addr, Trace: trace}
	d, err := New(cfg)
	require.NoError(t, err)
	assert.Equal(t, Config{TLSConfig: mine, LocalAddr: addr, Trace: trace}, cfg)

	change := func(c Config) {
		c.TLSConfig.ServerName, c.LocalAddr.Port, c.LocalAddr.IP[0] = "b", 2, 128
		c.Trace.DialDone = func(context.Context, DialDone) {}
	}
	change(cfg)
	change(d.Config())
	got := d.Config()
	assert.Equal(t, "a", got.TLSConfig.ServerName)
	assert.Equal(t, "127.0.0.1:1", got.LocalAddr.String())
	assert.Nil(t, got.Trace.DialDone)
}

func TestPresetsAreWhatTheirDocumentationSays(t *testing.T) {
	s := time.Second
	for _, tt := range []struct {
		name     string
		cfg      Config
		ka       string
		within   time.Duration
		timeout  time.Duration
		freshFor time.Duration
		rtoMax   time.Duration
	}{
		{"HighlyAvailable", HighlyAvailable(), "2s:1s:3", 5 * s, 3 * s, 2500 * time.Millisecond, s},
		{"RarelyUsed", RarelyUsed(), "2m:1m:3", 5 * time.Minute, 15 * s, -1, 10 * s},
		{"DistributedNodes", DistributedNodes(), "5s:3s:5", 20 * s, 15 * s, 10 * s, s},
	} {
		d, err := New(tt.cfg)
		require.NoError(t, err, tt.name)
		cfg := d.Config()
		assert.Equal(t, tt.ka, KeepAlive(cfg.KeepAlive).String(), tt.name)
		assert.Equal(t, tt.within, cfg.UserTimeout, tt.name)
		assert.Equal(t, tt.timeout, cfg.Timeout, tt.name)
		assert.Equal(t, tt.freshFor, cfg.FreshFor, tt.name)
		assert.Equal(t, tt.rtoMax, cfg.RTOMax, tt.name)
	}
}
