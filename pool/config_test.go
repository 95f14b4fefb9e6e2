package pool_test

import (
	"context"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/health"
	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

type netConfig = pool.Config[net.Conn]

// badConfigs has, for every field of Config that can be nonsense, what is
// nonsense and what the error must say beside the field's name.
var badConfigs = []struct {
	field string
	edit  func(*netConfig)
	says  string
}{
	{"Open", func(c *netConfig) { c.Open = nil }, "nil"},
	{"MaxConns", func(c *netConfig) { c.MaxConns = -1 }, "-1"},
	{"MaxConns", func(c *netConfig) { c.MaxConns = math.MaxInt }, "at most 2147483647"},
	{"MinIdleConns", func(c *netConfig) { c.MinIdleConns = -1 }, "-1"},
	{"MinIdleConns", func(c *netConfig) { c.MinIdleConns = 5; c.MaxConns = 4 }, "more than MaxConns, 4"},
	{"MaxConcurrentOpens", func(c *netConfig) { c.MaxConcurrentOpens = -2 }, "-2"},
	{"DetectWithin", func(c *netConfig) { c.DetectWithin = time.Second }, "at least 2s"},
	{"DetectWithin", func(c *netConfig) { c.DetectWithin = -time.Second }, "at least 2s"},
	{"FreshFor", func(c *netConfig) { c.FreshFor = 999 * time.Millisecond }, "1s or more"},
	{"FreshFor", func(c *netConfig) { c.FreshFor = 5 }, "1s or more"},
	{"FreshFor", func(c *netConfig) { c.FreshFor = 11 * time.Second }, "more than DetectWithin, 10s"},
	{"FreshFor", func(c *netConfig) { c.FreshFor = 3 * time.Second; c.DetectWithin = 2 * time.Second }, "more than DetectWithin, 2s"},
	{"OpenTimeout", func(c *netConfig) { c.OpenTimeout = -1 }, "positive"},
	{"MaxOpenBackoff", func(c *netConfig) { c.MaxOpenBackoff = time.Millisecond }, "at least 10ms"},
	{"MaxOpenBackoff", func(c *netConfig) { c.MaxOpenBackoff = -time.Second }, "at least 10ms"},
	{"MaxOpenBackoff", func(c *netConfig) { c.MaxOpenBackoff = time.Hour }, "more than DetectWithin, 10s"},
	{"MaxConnLifetime", func(c *netConfig) { c.MaxConnLifetime = 300 }, "unit"},
	{"MaxConnIdleTime", func(c *netConfig) { c.MaxConnIdleTime = 60 }, "unit"},
	{"OpenTimeout", func(c *netConfig) { c.OpenTimeout = 10 }, "unit"},
	{"CloseTimeout", func(c *netConfig) { c.CloseTimeout = 10 }, "unit"},
	{"LeakTimeout", func(c *netConfig) { c.LeakTimeout = 10 }, "unit"},
	{"PingPeriod", func(c *netConfig) { c.Ping = health.RedisPing; c.PingPeriod = 10 }, "unit"},
	{"PingTimeout", func(c *netConfig) { c.Ping = health.RedisPing; c.PingTimeout = 10 }, "unit"},
	{"MaxConnLifetimeJitter", func(c *netConfig) { c.MaxConnLifetime = -1; c.MaxConnLifetimeJitter = 1 }, "MaxConnLifetime is off"},
	{"MaxConnLifetimeJitter", func(c *netConfig) { c.MaxConnLifetime = 1; c.MaxConnLifetimeJitter = 2 }, "more than MaxConnLifetime"},
	{"MaxConnLifetimeJitter", func(c *netConfig) { c.MaxConnLifetimeJitter = time.Hour }, "more than MaxConnLifetime, 30m"},
	{"PingPeriod", func(c *netConfig) { c.Ping = health.RedisPing; c.PingPeriod = -1 }, "positive"},
	{"PingPeriod", func(c *netConfig) { c.PingPeriod = 1 }, "Ping is nil"},
	{"PingTimeout", func(c *netConfig) { c.Ping = health.RedisPing; c.PingTimeout = -1 }, "positive"},
	{"PingTimeout", func(c *netConfig) { c.PingTimeout = 1 }, "Ping is nil"},
	{"PingTimeout", func(c *netConfig) { c.Ping = health.RedisPing; c.PingTimeout = time.Minute }, "more than DetectWithin, 10s"},
	{"CloseTimeout", func(c *netConfig) { c.CloseTimeout = -1 }, "positive"},
	{"LeakTimeout", func(c *netConfig) { c.LeakTimeout = -1 }, "positive"},
	{"LeakTimeout", func(c *netConfig) { c.LeakTimeout = 1 }, "Trace.ConnLeaked is nil"},
	{"LeakTimeout", func(c *netConfig) { c.LeakTimeout = 1; c.Trace = &pool.Trace{} }, "Trace.ConnLeaked is nil"},
}

// noNonsense are the fields of which every value has a meaning.
var noNonsense = []string{"FailFast", "Ping", "NetConn", "Classify", "MaxWaiters", "AllowUnread", "Guard", "Trace"}

func TestNewNamesEveryFieldThatMakesNoSense(t *testing.T) {
	for _, bad := range badConfigs {
		t.Run(bad.field+"/"+bad.says, func(t *testing.T) {
			cfg := netConfig{Open: func(context.Context) (net.Conn, error) { return nil, nil }}
			bad.edit(&cfg)
			_, err := pool.New(cfg)
			require.ErrorContains(t, err, "pool: Config."+bad.field)
			require.ErrorContains(t, err, bad.says)
		})
	}
}

func TestNewRefusesATypeThatItCannotClose(t *testing.T) {
	_, err := pool.New(pool.Config[*conn]{Open: (&factory{}).open})
	require.ErrorContains(t, err, "Config.Close is nil, and *pool_test.conn has no method Close")
	_, err = pool.New(pool.Config[any]{Open: func(context.Context) (any, error) { return nil, nil }})
	require.ErrorContains(t, err, "Config.Close")
}

func TestNewReportsAllMistakesAtOnce(t *testing.T) {
	_, err := pool.New(netConfig{MaxConns: -1, CloseTimeout: -1})
	for _, field := range []string{"Open", "MaxConns", "CloseTimeout"} {
		require.ErrorContains(t, err, "Config."+field)
	}
}

func TestEveryConfigFieldIsAccountedFor(t *testing.T) {
	covered := map[string]bool{"Close": true} // TestNewRefusesATypeThatItCannotClose
	for _, bad := range badConfigs {
		covered[bad.field] = true
	}
	for _, name := range noNonsense {
		require.False(t, covered[name], name)
		covered[name] = true
	}
	for f := range reflect.TypeFor[netConfig]().Fields() {
		require.True(t, covered[f.Name], "no test for nonsense in Config.%s", f.Name)
	}
}

func TestJoinCoversEveryHook(t *testing.T) {
	var calls int
	one := &pool.Trace{}
	v := reflect.ValueOf(one).Elem()
	for i := range v.NumField() {
		typ := v.Field(i).Type()
		v.Field(i).Set(reflect.MakeFunc(typ, func(args []reflect.Value) []reflect.Value {
			calls++
			if typ.NumOut() == 1 {
				return args[:1]
			}
			return nil
		}))
	}
	joined := reflect.ValueOf(pool.Join(nil, one, &pool.Trace{}, one)).Elem()
	for i := range joined.NumField() {
		calls = 0
		args := make([]reflect.Value, joined.Field(i).Type().NumIn())
		for j := range args {
			args[j] = reflect.Zero(joined.Field(i).Type().In(j))
		}
		joined.Field(i).Call(args)
		require.Equal(t, 2, calls, joined.Type().Field(i).Name)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := pool.ReasonDead; r <= pool.ReasonHijacked; r++ {
		name := r.String()
		require.NotEqual(t, "unknown", name)
		require.Equal(t, strings.ToLower(name), name)
		require.False(t, seen[name], name)
		seen[name] = true
	}
	require.Equal(t, "unknown", (pool.ReasonHijacked + 1).String())
}
