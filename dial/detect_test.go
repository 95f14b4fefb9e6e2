package dial

import (
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestDetectionTimeAgreesWithTheKernel(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	goDefault := net.KeepAliveConfig{Enable: true}
	for _, tt := range []struct {
		name       string
		ka         net.KeepAliveConfig
		ut         time.Duration
		idle, busy time.Duration
	}{
		// Measured on Linux 6.18: idle 11.2, 151 s; 7.1, 9.3, 15.1, 31.3 s.
		{"keep-alive alone", keepAlive(5*s, 2*s, 3), 0, 11 * s, KernelLimit},
		{"Go's defaults", goDefault, 0, 150 * s, KernelLimit},
		{"the system's defaults", keepAlive(-1, -1, -1), 0, 7875 * s, KernelLimit},
		{"user timeout below the first two ticks", keepAlive(5*s, 2*s, 3), s, 7 * s, s},
		{"user timeout at the second tick", keepAlive(5*s, 2*s, 3), 7 * s, 7 * s, 7 * s},
		{"just after a tick", keepAlive(5*s, 2*s, 3), 7*s + ms, 9 * s, 7*s + ms},
		{"9s", keepAlive(5*s, 2*s, 3), 9 * s, 9 * s, 9 * s},
		{"15s, the count is ignored upwards", keepAlive(5*s, 2*s, 3), 15 * s, 15 * s, 15 * s},
		{"30s", keepAlive(5*s, 2*s, 3), 30 * s, 31 * s, 30 * s},
		{"the count is ignored downwards", keepAlive(2*s, 2*s, 9), 4 * s, 4 * s, 4 * s},
		{"15/15/3 with 30s dies after one lost probe", keepAlive(15*s, 15*s, 3), 30 * s, 30 * s, 30 * s},
		{"user timeout alone", net.KeepAliveConfig{}, 3 * s, Never, 3 * s},
		{"nothing", net.KeepAliveConfig{}, 0, Never, KernelLimit},
		{"off", net.KeepAliveConfig{Idle: -1}, -1, Never, KernelLimit},
		{"fractions round up", keepAlive(1500*ms, 1, 2), 0, 4 * s, KernelLimit},
		{"user timeout rounds up", goDefault, 1, 30 * s, ms},
		{"endless", keepAlive(math.MaxInt64, math.MaxInt64, math.MaxInt), 0, Never, KernelLimit},
		{"endless with user timeout", keepAlive(s, s, 1), math.MaxInt64, Never, Never},
	} {
		t.Run(tt.name, func(t *testing.T) {
			idle, busy := DetectionTime(tt.ka, tt.ut)
			assert.Equal(t, tt.idle, idle, "idle")
			assert.Equal(t, tt.busy, busy, "busy")
		})
	}
}

func TestOtherSystemsAreNotTakenForLinux(t *testing.T) {
	s := time.Second
	idle, busy := detection("darwin", keepAlive(5*s, 2*s, 3), 30*s, 0)
	assert.Equal(t, 11*s, idle, "the count counts")
	assert.Equal(t, 60*s, busy, "the limit is looked at only when a retransmission is due")
	idle, busy = detection("windows", keepAlive(5*s, 2*s, 3), 30*s, 0)
	assert.Equal(t, 11*s, idle)
	assert.Equal(t, 30*s, busy)
	idle, busy = detection("openbsd", net.KeepAliveConfig{Enable: true}, 0, 0)
	assert.Equal(t, Never, idle, "the values are not known")
	assert.Equal(t, Never, busy, "nor is the system's limit")
	idle, busy = detection("linux", keepAlive(5*s, 2*s, 3), 30*s, s)
	assert.Equal(t, 31*s, idle)
	assert.Equal(t, 30*s, busy)
	_, busy = detection("linux", keepAlive(5*s, 2*s, 3), 0, 0)
	assert.Equal(t, KernelLimit, busy)
}

func TestTheKernelsLimitFollowsRTOMax(t *testing.T) {
	s, ms := time.Second, time.Millisecond
	assert.Equal(t, KernelLimit, kernelLimit(maxRTOMax))
	assert.Equal(t, 14400*ms, kernelLimit(s)) // 15 s measured, with the last retransmission's wait
	assert.Equal(t, 27*s, kernelLimit(2*s))
	assert.Equal(t, 20900*ms, kernelLimit(1500*ms))
	_, busy := detection("linux", net.KeepAliveConfig{}, 0, 2*s)
	assert.Equal(t, 27*s, busy)
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		Never: "never", 10 * time.Second: "10s", time.Minute: "1m", 90 * time.Second: "1m30s",
		time.Hour: "1h", 10 * time.Hour: "10h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 0: "0s",
		100 * time.Millisecond: "100ms",
	} {
		assert.Equal(t, want, short(d))
	}
}
