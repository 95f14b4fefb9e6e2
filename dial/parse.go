package dial

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// ParseKeepAlive reads keep-alive values in the form that nginx's so_keepalive
// has:
//
//	idle:interval:count   each part may be empty for the default: 30m::10
//	on                    all defaults, like ::
//	off                   no keep-alive
//
// Idle and interval are durations as time.ParseDuration reads them (30m, 1h30m,
// 10s), or whole seconds if they are a bare number. What the default is, is
// Config.KeepAlive's to say. The empty string is the zero value, which is that
// default, too.
func ParseKeepAlive(s string) (net.KeepAliveConfig, error) {
	fail := func(format string, args ...any) (net.KeepAliveConfig, error) {
		return net.KeepAliveConfig{}, fmt.Errorf("dial: keep-alive %q: "+format, append([]any{s}, args...)...)
	}
	switch s {
	case "":
		return net.KeepAliveConfig{}, nil
	case "on":
		return net.KeepAliveConfig{Enable: true}, nil
	case "off":
		return net.KeepAliveConfig{Idle: -1, Interval: -1, Count: -1}, nil
	}
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return fail("want on, off or idle:interval:count, for instance 30m::10")
	}
	ka := net.KeepAliveConfig{Enable: true}
	var err error
	if ka.Idle, err = parseSeconds(parts[0]); err != nil {
		return fail("idle: %w", err)
	}
	if ka.Interval, err = parseSeconds(parts[1]); err != nil {
		return fail("interval: %w", err)
	}
	if parts[2] != "" {
		if ka.Count, err = strconv.Atoi(parts[2]); err != nil || ka.Count < 1 || ka.Count > maxCount {
			return fail("count: want 1 to %d", maxCount)
		}
	}
	return ka, nil
}

func parseSeconds(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseInt(s, 10, 64); nerr == nil {
		d, err = time.Duration(max(-1, min(n, math.MaxInt32)))*time.Second, nil
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("want a duration such as 30m or 10s: %w", err)
	case d <= 0:
		return 0, fmt.Errorf("%s is not positive; leave it empty for the default", s)
	case d > maxKeepAlive:
		return 0, fmt.Errorf("%s is more than the %v that the kernel holds", s, maxKeepAlive)
	case d%time.Second != 0:
		return 0, fmt.Errorf("%s is not in whole seconds, which the kernel counts", s)
	}
	return d, nil
}

// KeepAlive is a keep-alive configuration that flags, environment variables and
// configuration files can hold, in the form of [ParseKeepAlive]:
//
//	var ka dial.KeepAlive
//	flag.Var(&ka, "keepalive", "on, off or idle:interval:count")
//	…
//	d, err := dial.New(dial.Config{KeepAlive: net.KeepAliveConfig(ka)})
//
// A pointer to it is a flag.Value, an encoding.TextMarshaler and a
// encoding.TextUnmarshaler.
type KeepAlive net.KeepAliveConfig

// String returns the form that Set reads. Parts that are zero are empty.
func (k KeepAlive) String() string {
	switch {
	case k == KeepAlive{}:
		return ""
	case !k.Enable:
		return "off"
	case k == KeepAlive{Enable: true}:
		return "on"
	}
	var idle, interval, count string
	if k.Idle > 0 {
		idle = short(k.Idle)
	}
	if k.Interval > 0 {
		interval = short(k.Interval)
	}
	if k.Count > 0 {
		count = strconv.Itoa(k.Count)
	}
	return idle + ":" + interval + ":" + count
}

// Set replaces k by what s says. On an error k is left as it was.
func (k *KeepAlive) Set(s string) error {
	ka, err := ParseKeepAlive(s)
	if err != nil {
		return err
	}
	*k = KeepAlive(ka)
	return nil
}

// UnmarshalText is Set.
func (k *KeepAlive) UnmarshalText(text []byte) error { return k.Set(string(text)) }

// MarshalText is String.
func (k KeepAlive) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
