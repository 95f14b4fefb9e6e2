package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/examples/internal/backstage/rehearsal"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hurried = pace{
	think:    20 * time.Millisecond,
	settle:   400 * time.Millisecond,
	away:     200 * time.Millisecond,
	idle:     400 * time.Millisecond,
	deadline: 250 * time.Millisecond,
	hang:     600 * time.Millisecond,
}

// cells returns the table's row of a fault and a pool.
func cells(t *testing.T, out, fault, pool string) []string {
	t.Helper()
	apart := regexp.MustCompile(`\s{2,}`)
	name := ""
	for line := range strings.Lines(out) {
		c := apart.Split(strings.TrimRight(line, " \n"), -1)
		if len(c) != 7 {
			continue
		}
		if c[0] != "" {
			name = c[0]
		}
		if name == fault && c[1] == pool {
			return c
		}
	}
	require.Failf(t, "no such row", "%s, %s in:\n%s", fault, pool, out)
	return nil
}

// keeps plays the show with eight workers and returns what it says. All promises
// must be kept, but those of a show during which this machine stood still: that
// is played again.
func keeps(t *testing.T, lab bool) string {
	t.Helper()
	clock := netlab.NewClock(t)
	for again := 0; ; again++ {
		var out bytes.Buffer
		began := time.Now()
		code, err := show(t.Context(), options{workers: 8, detect: 2 * time.Second, plain: true, lab: lab, pace: hurried}, &out)
		require.NoError(t, err)
		if lost := clock.Lost(began); code == backstage.ExitBroken && lost > slack/4 && again < 2 {
			t.Logf("this machine stood still for %v:\n%s", lost, &out)
			continue
		}
		require.Equal(t, backstage.ExitKept, code, "%s", &out)
		return out.String()
	}
}

func TestTheShowEndsWithATableAndKeptPromises(t *testing.T) {
	text := keeps(t, false)
	assert.Equal(t, "0", cells(t, text, "server restarts", holdfast)[4])
	assert.Equal(t, "8", cells(t, text, "server restarts", holdfast)[5])
	assert.NotEqual(t, "0", cells(t, text, "server restarts", ordinary)[4])
	assert.NotEqual(t, "0", cells(t, text, "idle ones closed", ordinary)[4])
	for _, fault := range []string{"connections reset", "idle ones closed", "server hangs"} {
		cells(t, text, fault, holdfast)
		cells(t, text, fault, ordinary)
	}
	assert.Regexp(t, `packets dropped +skipped: -namespaces=false`, text)
	closed := 0 // a flood that takes its time is told in parts
	for _, part := range regexp.MustCompile(`holdfast  closed (\d+) connections?(?: in .*)?: dead \(EOF\)`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(part[1])
		require.NoError(t, err)
		closed += n
	}
	assert.GreaterOrEqual(t, closed, 8)
	assert.NotContains(t, text, "BROKEN")
	assert.NotContains(t, text, "\x1b", "no escape codes where there is no terminal")
}

func TestSilentDropsAreNoticedWithinDetectWithin(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s")
	}
	site, err := backstage.NewSite(true, 1, func(error) {})
	require.NoError(t, err)
	site.Close()
	if site.Lab == nil {
		t.Skip(site.NoLab)
	}
	text := keeps(t, true)
	for _, fault := range []string{"packets dropped", "flows forgotten"} {
		assert.NotContains(t, cells(t, text, fault, holdfast)[2], ">")
		assert.Regexp(t, `^> \d`, cells(t, text, fault, ordinary)[2])
	}
	assert.NotContains(t, text, "skipped")
}

func TestARealServerIsLeftAsItWas(t *testing.T) {
	server := miniredis.RunT(t)
	require.NoError(t, server.Set("somebody's", "data"))
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := &rehearsal.Output{Want: "listens again", Seen: interrupt}
	o := options{redis: server.Addr(), workers: 4, detect: 2 * time.Second, plain: false, pace: hurried}
	code, err := show(ctx, o, out)
	assert.Equal(t, backstage.ExitInterrupted, code)
	assert.ErrorContains(t, err, "interrupted")
	assert.Equal(t, []string{"somebody's"}, server.Keys())
	assert.Contains(t, out.String(), "Redis at "+server.Addr())
	assert.NotContains(t, out.String(), "plain")
}

func TestBadUseIsExplained(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	nobody := c.LocalAddr().String() // where nobody listens, nor will meanwhile

	for _, test := range []struct {
		name, redis string
		args        []string
		code        int
		says        string
	}{
		{"help", "", []string{"-h"}, backstage.ExitKept, "-detect"},
		{"unknown flag", "", []string{"-fast"}, backstage.ExitFailed, "-fast"},
		{"argument", "", []string{"now"}, backstage.ExitFailed, `"now"`},
		{"too few workers", "", []string{"-workers=1"}, backstage.ExitFailed, "-workers is 1"},
		{"detect too short", "", []string{"-detect=1s", "-namespaces=false"}, backstage.ExitFailed, "DetectWithin"},
		{"no server", nobody, []string{"-namespaces=false"}, backstage.ExitFailed, "connecting to Redis at " + nobody},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("REDIS_ADDR", test.redis)
			var stderr bytes.Buffer
			assert.Equal(t, test.code, start(t.Context(), test.args, io.Discard, &stderr))
			assert.Contains(t, stderr.String(), test.says)
		})
	}
}

func TestBrokenPromisesAreToldAndCounted(t *testing.T) {
	now := time.Now()
	s := &stage{sides: []*side{{name: holdfast, limit: 4, peak: 5, wrong: 1, dead: 1}}, detect: 2 * time.Second, pace: defaultPace, crew: &crew{size: 16}}
	at := func(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }
	r := row{side: holdfast, struck: now, over: now, back: now, end: at(9000), severs: true,
		failed: 4, inFlight: 1, longest: 4 * time.Second, success: at(5000)}
	var results []result
	want := 3 // at all times
	for _, f := range script(s) {
		r.fault = f.name
		results = append(results, result{f, []row{r}})
		want += len(f.keeps(r, s))
	}
	var out bytes.Buffer
	assert.Equal(t, want, conclude(&out, s, results))
	assert.Equal(t, want, strings.Count(out.String(), "BROKEN"))
	assert.Contains(t, out.String(), "5 at most")
	assert.Contains(t, out.String(), "not at all")
}

func TestAFloodOfEventsBecomesOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		n := newNarrator(&out)
		n.start(func() string { return "fine" })
		for range 3 {
			n.event(holdfast, "closed", "connection", "dead (EOF)")
			time.Sleep(10 * time.Millisecond)
		}
		n.event(ordinary, "failed", "operation", "EOF")
		time.Sleep(3 * time.Second)
		n.stop()
		assert.Equal(t, ""+
			"  0.00s  holdfast  closed 3 connections in 20 ms: dead (EOF)\n"+
			"  0.03s  plain     failed 1 operation: EOF\n"+
			"  2.05s  workers   fine\n", out.String())
	})
}
