package dial

import (
	"encoding"
	"encoding/json"
	"flag"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	_ flag.Value               = (*KeepAlive)(nil)
	_ encoding.TextUnmarshaler = (*KeepAlive)(nil)
	_ encoding.TextMarshaler   = KeepAlive{}
)

func TestParseKeepAliveReadsWhatNginxWrites(t *testing.T) {
	s := time.Second
	for in, want := range map[string]net.KeepAliveConfig{
		"":                {},
		"on":              {Enable: true},
		"off":             {Idle: -1, Interval: -1, Count: -1},
		"::":              {Enable: true},
		"30m::10":         keepAlive(30*time.Minute, 0, 10),
		"4s:2s:3":         keepAlive(4*s, 2*s, 3),
		"4:2:3":           keepAlive(4*s, 2*s, 3),
		":2s:":            keepAlive(0, 2*s, 0),
		"1h30m:1m30s:":    keepAlive(90*time.Minute, 90*s, 0),
		"1.0s:1000ms:127": keepAlive(s, s, 127),
		"32767:32767:1":   keepAlive(32767*s, 32767*s, 1),
	} {
		got, err := ParseKeepAlive(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got, in)
	}
}

func TestParseKeepAliveSaysWhatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"30m":                      "idle:interval:count",
		"yes":                      "idle:interval:count",
		"ON":                       "idle:interval:count",
		"1s:2s":                    "idle:interval:count",
		"1s:2s:3:4":                "idle:interval:count",
		"x:2s:3":                   "idle: want a duration",
		"1s:x:3":                   "interval: want a duration",
		" 1s:2s:3":                 "idle: want a duration",
		"0:2s:3":                   "idle: 0 is not positive",
		"-1s:2s:3":                 "idle: -1s is not positive",
		"-9223372036854775807:1:1": "is not positive",
		"1s:0s:3":                  "interval: 0s is not positive",
		"500ms:2s:3":               "idle: 500ms is not in whole seconds",
		"1s:1ns:3":                 "interval: 1ns is not in whole seconds",
		"10h:2s:3":                 "idle: 10h is more than",
		"99999999999999999:1:1":    "is more than",
		"1s:2s:0":                  "count: want 1 to 127",
		"1s:2s:-1":                 "count: want 1 to 127",
		"1s:2s:128":                "count: want 1 to 127",
		"1s:2s:x":                  "count: want 1 to 127",
	} {
		_, err := ParseKeepAlive(in)
		assert.ErrorContains(t, err, want, in)
		assert.ErrorContains(t, err, "keep-alive", in)
	}
}

func TestKeepAliveTextSurvivesTheWayThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(0, 32767).Draw(t, "seconds")) * time.Second
		})
		want := KeepAlive(keepAlive(seconds.Draw(t, "idle"), seconds.Draw(t, "interval"), rapid.IntRange(0, 127).Draw(t, "count")))
		var got KeepAlive
		require.NoError(t, got.Set(want.String()))
		assert.Equal(t, want, got)
	})
	for _, text := range []string{"", "on", "off", "30m::10", "4s:2s:3", ":2s:", "::10"} {
		var ka KeepAlive
		require.NoError(t, ka.Set(text))
		assert.Equal(t, text, ka.String())
	}
}

func TestKeepAliveWorksInFlagsAndJSON(t *testing.T) {
	var ka KeepAlive
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(&ka, "keepalive", "")
	require.NoError(t, fs.Parse([]string{"-keepalive", "30m::10"}))
	assert.Equal(t, keepAlive(30*time.Minute, 0, 10), net.KeepAliveConfig(ka))

	require.Error(t, fs.Parse([]string{"-keepalive", "1s:2s"}))
	assert.Equal(t, "30m::10", ka.String(), "an error leaves it as it was")

	var v struct{ KA KeepAlive }
	require.NoError(t, json.Unmarshal([]byte(`{"KA":"4s:2s:3"}`), &v))
	out, err := json.Marshal(v)
	require.NoError(t, err)
	assert.JSONEq(t, `{"KA":"4s:2s:3"}`, string(out))
}

func FuzzParseKeepAlive(f *testing.F) {
	for _, s := range []string{"", "on", "off", "::", "30m::10", "4:2:3", "x", "1s:2s:99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ka, err := ParseKeepAlive(s)
		if err != nil {
			return
		}
		again, err := ParseKeepAlive(KeepAlive(ka).String())
		require.NoError(t, err)
		assert.Equal(t, ka, again)
		if ka.Enable {
			_, err = New(Config{KeepAlive: ka, UserTimeout: -1})
			assert.NoError(t, err, "what can be written can be used")
		}
	})
}
