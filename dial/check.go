package dial

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"time"
)

// checkDetection checks the fields that decide how fast a death is noticed, one
// by one.
func (c *Config) checkDetection(add func(string, ...any)) {
	switch d := c.DetectWithin; {
	case d < 0:
		add("Config.DetectWithin is %v: it must be zero, for 10s, or at least 2s", d)
	case d > 0 && d < minDetectWithin:
		add("Config.DetectWithin is %v: less than 2s can't be kept, because keep-alive counts in whole seconds; use 2s or more", d)
	case d > maxDetectWithin && c.derives():
		add("Config.DetectWithin is %v: the kernel's keep-alive holds no more than %v", d, maxDetectWithin)
	}

	ka := c.KeepAlive
	switch {
	case c.off():
		if ka.Interval > 0 || ka.Count > 0 {
			add("Config.KeepAlive is off (Idle is negative) but has an Interval of %v and a Count of %d: leave them zero", ka.Interval, ka.Count)
		}
		if c.DetectWithin > 0 {
			add("Config.DetectWithin is %v but Config.KeepAlive is off: nothing would notice the death of an idle connection; leave KeepAlive zero, or DetectWithin", c.DetectWithin)
		}
		if c.UserTimeout > 0 {
			add("Config.UserTimeout is %v but Config.KeepAlive is off: the kernel applies it to data in flight only, an idle connection would never be found dead; leave KeepAlive zero, or UserTimeout", c.UserTimeout)
		}
	case !ka.Enable && ka != net.KeepAliveConfig{}:
		add("Config.KeepAlive.Enable is false but other parts are set, which would be ignored: set Enable, or a negative Idle alone to turn keep-alive off")
	default:
		checkSeconds(add, "Config.KeepAlive.Idle", ka.Idle)
		checkSeconds(add, "Config.KeepAlive.Interval", ka.Interval)
		if ka.Count < 0 || ka.Count > maxCount {
			add("Config.KeepAlive.Count is %d: it must be 1 to %d, or zero for the derived value", ka.Count, maxCount)
		}
	}

	if ut := c.UserTimeout; ut > maxUserTimeout {
		add("Config.UserTimeout is %v: the kernel holds no more than %v", ut, maxUserTimeout)
	}
	if c.MultipathTCP && c.DetectWithin > 0 {
		add("Config.DetectWithin is %v but Config.MultipathTCP has Linux wait a minute (net.mptcp.close_timeout) for a new path when the last one has died, so that it can't be kept: leave DetectWithin zero and set KeepAlive if need be, or MultipathTCP to false", c.DetectWithin)
	}
}

func checkSeconds(add func(string, ...any), field string, d time.Duration) {
	switch {
	case d < 0:
		add("%s is %v: it must be positive, or zero for the derived value", field, d)
	case d > maxKeepAlive:
		add("%s is %v: the kernel holds no more than %v", field, d, maxKeepAlive)
	case d%time.Second != 0:
		add("%s is %v: the kernel counts in whole seconds; use %v", field, d, d.Truncate(time.Second)+time.Second)
	}
}

// fillDetection derives what is missing, and checks that all of it together
// does what it says.
func (c *Config) fillDetection(add func(string, ...any)) {
	if c.off() {
		c.KeepAlive = net.KeepAliveConfig{Idle: -1, Interval: -1, Count: -1}
		c.UserTimeout = -1
		return
	}
	if c.DetectWithin > 0 && c.UserTimeout > c.DetectWithin && !c.SlowReaders {
		add("Config.UserTimeout is %v but Config.DetectWithin is %v: set UserTimeout to no more than that, or zero", c.UserTimeout, c.DetectWithin)
		return
	}
	base := cmp.Or(c.DetectWithin, defaultDetectWithin)
	if c.UserTimeout > 0 && !c.SlowReaders {
		base = min(max(c.UserTimeout, minDetectWithin), maxDetectWithin)
	}
	derived := derive(base)
	derived.Enable = true
	if c.KeepAlive.Idle > 0 {
		derived.Idle = c.KeepAlive.Idle
	}
	if c.KeepAlive.Interval > 0 {
		derived.Interval = c.KeepAlive.Interval
	}
	if c.KeepAlive.Count > 0 {
		derived.Count = c.KeepAlive.Count
	}
	c.KeepAlive = derived
	total := derived.Idle + derived.Interval*time.Duration(derived.Count)
	sum := fmt.Sprintf("%s + %d × %s = %s", short(derived.Idle), derived.Count, short(derived.Interval), short(total))

	if c.DetectWithin > 0 && total > c.DetectWithin {
		add("Config.KeepAlive gives an idle connection up after %s but Config.DetectWithin is %v: set DetectWithin to %s, or zero, or make KeepAlive shorter", sum, c.DetectWithin, short(total))
		return
	}
	switch {
	case c.SlowReaders:
		c.fillBackstop(add, total, sum)
	case c.UserTimeout > 0 && c.UserTimeout != total:
		add("Config.UserTimeout is %v but Config.KeepAlive, in whole seconds, says %s, and the kernel ignores the count beside a user timeout: set UserTimeout to %s, or zero", c.UserTimeout, sum, short(total))
	case total > maxUserTimeout && c.UserTimeout >= 0:
		add("Config.KeepAlive says %s but Config.UserTimeout, which must say the same, holds no more than %v: make KeepAlive shorter", sum, maxUserTimeout)
	case c.UserTimeout == 0:
		c.UserTimeout = total
	}
	switch {
	case c.DetectWithin > 0 || c.MultipathTCP:
	case c.SlowReaders && !c.Unguarded:
		c.DetectWithin = total // the user timeout is a backstop only
	default:
		c.DetectWithin, _ = DetectionTime(c.KeepAlive, c.UserTimeout)
	}
	if c.MultipathTCP && c.UserTimeout > 0 {
		add("Config.MultipathTCP and a Config.UserTimeout of %v exclude each other, because Linux has no user timeout for Multipath TCP: set UserTimeout to -1 and give writes deadlines, or MultipathTCP to false", c.UserTimeout)
	}
}

// fillBackstop is fillDetection's part for slow readers.
func (c *Config) fillBackstop(add func(string, ...any), total time.Duration, sum string) {
	if c.UserTimeout <= 0 {
		c.UserTimeout = -1
		return
	}
	if c.UserTimeout < total {
		add("Config.UserTimeout is %v with Config.SlowReaders, less than the %s of Config.KeepAlive: set UserTimeout to %s or more, or zero", c.UserTimeout, sum, short(total))
		return
	}
	if up := roundUp(c.UserTimeout, time.Millisecond); up != c.UserTimeout {
		add("Config.UserTimeout is %v: the kernel counts in milliseconds; use %v", c.UserTimeout, up)
	}
	if idle, _ := DetectionTime(c.KeepAlive, c.UserTimeout); c.Unguarded && c.DetectWithin > 0 && idle > c.DetectWithin {
		add("Config.UserTimeout is %v with Config.SlowReaders and Config.Unguarded, and the kernel ignores the keep-alive count beside it: an idle connection would be found dead after %s but Config.DetectWithin is %v; set DetectWithin to %s, UserTimeout to zero, or Unguarded to false",
			c.UserTimeout, short(idle), c.DetectWithin, short(idle))
	}
}

// checkGuard checks the fields about the guard, and RTOMax, one by one.
func (c *Config) checkGuard(add func(string, ...any)) {
	if c.Unguarded && c.Guard != nil {
		add("Config.Unguarded is true but Config.Guard is set: leave one of them out")
	}
	if c.Unguarded && c.FreshFor > 0 {
		add("Config.Unguarded is true but Config.FreshFor is %v, which is the guard's to keep: leave one of them out", c.FreshFor)
	}
	if c.FreshFor > 0 && c.FreshFor < minFreshFor {
		add("Config.FreshFor is %v: keep-alive counts in whole seconds, so use 1s or more, zero for half of DetectWithin, or a negative value to keep nothing fresh", c.FreshFor)
	}
	switch r := c.RTOMax; {
	case r > 0 && r < minRTOMax:
		add("Config.RTOMax is %v: the kernel takes no less than 1s; use 1s or more, or zero for the derived value", r)
	case r > maxRTOMax:
		add("Config.RTOMax is %v: the kernel takes no more than 2m; use that, or a negative value, which means the same", r)
	case r > 0 && r%time.Millisecond != 0:
		add("Config.RTOMax is %v: the kernel counts in milliseconds; use %v", r, roundUp(r, time.Millisecond))
	}
}

// fillGuard derives what the guard and retransmissions need from the rest.
func (c *Config) fillGuard(add func(string, ...any)) {
	switch {
	case c.Unguarded:
	case !c.guarded():
		if c.FreshFor > 0 {
			add("Config.FreshFor is %v but with Config.KeepAlive off, or Config.MultipathTCP, the guard asks nobody: set FreshFor to zero", c.FreshFor)
		}
		c.FreshFor = -1
	case c.FreshFor > c.DetectWithin:
		add("Config.FreshFor is %v but Config.DetectWithin is %v: a connection that is silent for so long is given up; set FreshFor to less", c.FreshFor, c.DetectWithin)
	case c.FreshFor == 0:
		c.FreshFor = max(minFreshFor, c.DetectWithin/2)
	}

	bounded := c.UserTimeout > 0 || c.guarded()
	if c.RTOMax > 0 && !bounded {
		add("Config.RTOMax is %v but neither a user timeout nor a guard bounds how long data may stay unacknowledged: Linux would give a connection up after 15 retransmissions, about %s; set RTOMax to zero, or have one of them",
			c.RTOMax, short(15*c.RTOMax))
	}
	// Linux gives a peer up that leaves 15 questions about its closed window
	// unanswered, which must not come before the guard's verdict.
	least := min(max(defaultRTOMax, roundUp(c.DetectWithin/12, time.Millisecond)), maxRTOMax)
	if bounded && c.UserTimeout <= 0 && c.RTOMax > 0 && c.RTOMax < least {
		add("Config.RTOMax is %v but Config.DetectWithin is %v and no user timeout is set: Linux would give a peer with a closed window up after 15 questions, before DetectWithin is over; set RTOMax to %v or more, or zero",
			c.RTOMax, c.DetectWithin, least)
	}
	if c.RTOMax == 0 {
		c.RTOMax = -1
		switch {
		case c.UserTimeout > 0:
			c.RTOMax = defaultRTOMax
		case bounded:
			c.RTOMax = least
		}
	}
}

// checkRest checks the fields that have nothing to do with detection.
func (c *Config) checkRest(add func(string, ...any)) {
	switch {
	case c.Timeout < 0:
		add("Config.Timeout is %v: it must be positive, or zero for the derived value", c.Timeout)
	case c.Timeout <= c.FallbackDelay:
		add("Config.Timeout is %v and Config.FallbackDelay is %v: the second address family would never be tried; set Timeout to more than %v, or FallbackDelay to less than %v",
			c.Timeout, c.FallbackDelay, c.FallbackDelay, c.Timeout)
	}
	if c.MultipathTCP && c.FastUnreachable {
		add("Config.MultipathTCP and Config.FastUnreachable exclude each other, because Linux has no such option for Multipath TCP: set one of them to false")
	}
	for _, b := range []struct {
		field string
		n     int
	}{{"ReadBuffer", c.ReadBuffer}, {"WriteBuffer", c.WriteBuffer}} {
		if b.n < 0 || b.n > math.MaxInt32/2 {
			add("Config.%s is %d: it must be 1 to %d bytes, or zero to let the kernel tune it", b.field, b.n, math.MaxInt32/2)
		}
	}
	if a := c.LocalAddr; a != nil {
		if n := len(a.IP); n != 0 && n != net.IPv4len && n != net.IPv6len {
			add("Config.LocalAddr.IP has %d bytes: an IP address has 4 or 16", n)
		}
		if a.Port < 0 || a.Port > math.MaxUint16 {
			add("Config.LocalAddr.Port is %d: it must be 1 to 65535, or zero to let the kernel choose", a.Port)
		}
	}
	if t := c.TLSConfig; t != nil && t.MinVersion != 0 && t.MaxVersion != 0 && t.MinVersion > t.MaxVersion {
		add("Config.TLSConfig has MinVersion %s above MaxVersion %s: no handshake can succeed",
			tls.VersionName(t.MinVersion), tls.VersionName(t.MaxVersion))
	}
}
