package sockopt

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// timers reads c's settings.
func timers(t *testing.T, c net.Conn) Timers {
	t.Helper()
	var tm Timers
	on(t, c, func(fd uintptr) { require.NoError(t, ReadTimers(fd, &tm)) })
	return tm
}

// setTimers gives c keep-alive settings and a user timeout.
func setTimers(t *testing.T, c net.Conn, ka KeepAlive, timeout time.Duration) Timers {
	t.Helper()
	on(t, c, func(fd uintptr) {
		require.NoError(t, SetKeepAlive(fd, ka))
		require.NoError(t, SetUserTimeout(fd, timeout))
	})
	return timers(t, c)
}

func TestRestorePutsBackWhatAskAndShieldChanged(t *testing.T) {
	for name, ka := range map[string]KeepAlive{
		"keep-alive on":           {true, 40 * time.Second, 7 * time.Second, 3},
		"keep-alive off":          {false, 40 * time.Second, 7 * time.Second, 3},
		"the same as Ask's":       {true, time.Second, time.Second, 127},
		"the same as Ask's, off":  {false, time.Second, time.Second, 127},
		"like Ask's but interval": {true, time.Second, 2 * time.Second, 127},
	} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, c, _ net.Conn) {
				before := setTimers(t, c, ka, 11*time.Second)
				assert.Equal(t, Timers{KeepAlive: ka, UserTimeout: 11 * time.Second}, before)

				saved := before
				on(t, c, func(fd uintptr) { require.NoError(t, Ask(fd)) })
				assert.Equal(t, KeepAlive{true, time.Second, ka.Interval, ka.Count}, timers(t, c).KeepAlive)
				on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &saved)) })
				assert.Equal(t, before, timers(t, c))

				on(t, c, func(fd uintptr) {
					require.NoError(t, Shield(fd, time.Hour+1))
					saved.Shielded = time.Hour + 1
					require.NoError(t, Ask(fd))
				})
				assert.Equal(t, Timers{
					KeepAlive:   KeepAlive{true, time.Second, time.Second, 127},
					UserTimeout: time.Hour + time.Millisecond,
				}, timers(t, c))
				on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &saved)) })
				assert.Equal(t, before, timers(t, c))
			})
		})
	}
}

func TestRestoreLeavesWhatTheOwnerHasSetSince(t *testing.T) {
	for name, ka := range map[string]KeepAlive{
		"was on":  {true, 40 * time.Second, 7 * time.Second, 3},
		"was off": {false, 40 * time.Second, 7 * time.Second, 3},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := pair(t, "tcp", "127.0.0.1:0")
			saved := setTimers(t, c, ka, 11*time.Second)
			on(t, c, func(fd uintptr) {
				require.NoError(t, Shield(fd, time.Hour))
				saved.Shielded = time.Hour
				require.NoError(t, Ask(fd))
				require.NoError(t, SetUserTimeout(fd, 20*time.Second))
			})
			owners := net.KeepAliveConfig{Enable: true, Idle: 9 * time.Second, Interval: 8 * time.Second, Count: 5}
			require.NoError(t, c.(*net.TCPConn).SetKeepAliveConfig(owners))
			on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &saved)) })
			assert.Equal(t, Timers{
				KeepAlive:   KeepAlive{true, 9 * time.Second, 8 * time.Second, 5},
				UserTimeout: 20 * time.Second,
			}, timers(t, c))
		})
	}

	t.Run("only one of them", func(t *testing.T) {
		c, _ := pair(t, "tcp", "127.0.0.1:0")
		saved := setTimers(t, c, KeepAlive{true, 40 * time.Second, 7 * time.Second, 3}, 11*time.Second)
		on(t, c, func(fd uintptr) {
			require.NoError(t, Shield(fd, time.Hour))
			saved.Shielded = time.Hour
			require.NoError(t, Ask(fd))
		})
		require.NoError(t, c.(*net.TCPConn).SetKeepAlivePeriod(9*time.Second))
		on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &saved)) })
		assert.Equal(t, Timers{
			KeepAlive:   KeepAlive{true, 9 * time.Second, 7 * time.Second, 3},
			UserTimeout: 11 * time.Second,
		}, timers(t, c))
	})

	t.Run("switched off", func(t *testing.T) {
		c, _ := pair(t, "tcp", "127.0.0.1:0")
		saved := setTimers(t, c, KeepAlive{true, 40 * time.Second, 7 * time.Second, 3}, 0)
		on(t, c, func(fd uintptr) { require.NoError(t, Ask(fd)) })
		require.NoError(t, c.(*net.TCPConn).SetKeepAlive(false))
		on(t, c, func(fd uintptr) { require.NoError(t, Restore(fd, &saved)) })
		assert.Equal(t, KeepAlive{false, 40 * time.Second, 7 * time.Second, 3}, timers(t, c).KeepAlive)
	})
}

func TestAskingAllocatesNothing(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	setTimers(t, c, KeepAlive{false, 40 * time.Second, 7 * time.Second, 3}, 11*time.Second)
	var tm Timers
	on(t, c, func(fd uintptr) {
		allocs := testing.AllocsPerRun(100, func() {
			err := ReadTimers(fd, &tm)
			err2 := Shield(fd, time.Hour)
			tm.Shielded = time.Hour
			if err != nil || err2 != nil || Ask(fd) != nil || Restore(fd, &tm) != nil {
				t.Fail()
			}
		})
		assert.Zero(t, allocs)
	})
}

func TestShieldRefusesABackstopThatIsNone(t *testing.T) {
	c, _ := pair(t, "tcp", "127.0.0.1:0")
	before := timers(t, c)
	on(t, c, func(fd uintptr) {
		assert.ErrorIs(t, Shield(fd, 0), syscall.EINVAL)
		assert.ErrorIs(t, Shield(fd, -1), syscall.EINVAL)
	})
	assert.Equal(t, before, timers(t, c))
}

func TestAskingWhatIsNoTCPSocketIsAnError(t *testing.T) {
	c, _ := pair(t, "unix", t.TempDir()+"/s")
	on(t, c, func(fd uintptr) {
		var tm Timers
		assert.ErrorIs(t, ReadTimers(fd, &tm), syscall.EOPNOTSUPP)
		assert.ErrorIs(t, Ask(fd), syscall.EOPNOTSUPP)
		assert.ErrorIs(t, Shield(fd, time.Hour), syscall.EOPNOTSUPP)
		assert.ErrorIs(t, Restore(fd, &tm), syscall.EOPNOTSUPP)
		assert.ErrorIs(t, HalfOpen(fd), syscall.EOPNOTSUPP)
	})
	var tm Timers
	assert.ErrorIs(t, Ask(1<<20), syscall.EBADF)
	assert.ErrorIs(t, Restore(1<<20, &tm), syscall.EBADF)
}
