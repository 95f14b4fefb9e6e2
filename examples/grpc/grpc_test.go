package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/examples/internal/backstage/rehearsal"
)

func TestMain(m *testing.M) {
	os.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // nobody's show may depend on what is set there
	goleak.VerifyTestMain(m)
}

var hurried = pace{
	think:    20 * time.Millisecond,
	settle:   300 * time.Millisecond,
	away:     time.Second,
	watched:  3 * time.Second,
	deadline: 2 * time.Second,
	slack:    time.Second,
}

// cells returns the table's row of a fault and a level: failed, later, next.
func cells(t *testing.T, out, fault, level string) []string {
	t.Helper()
	apart := regexp.MustCompile(`\s{2,}`)
	name := ""
	for line := range strings.Lines(out) {
		c := apart.Split(strings.TrimRight(line, " \n"), -1)
		if len(c) != 5 {
			continue
		}
		if c[0] != "" {
			name = c[0]
		}
		if name == fault && c[1] == level {
			return c[2:]
		}
	}
	require.Failf(t, "no such row", "%s, %s in:\n%s", fault, level, out)
	return nil
}

func TestTheShowEndsWithATableAndKeptPromises(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	code, err := show(t.Context(), options{backstage.Options{Workers: 2, Detect: 2 * time.Second}, hurried}, &out)
	require.NoError(t, err)
	require.Equal(t, backstage.ExitKept, code, "%s", &out)
	text := out.String()
	for _, level := range levels {
		assert.NotRegexp(t, `\+0$`, cells(t, text, "server restarts", level)[0], "those that don't wait for a connection")
	}
	for _, fault := range []string{"packets dropped", "flows forgotten, idle", "flows forgotten, busy", "one server of two gone"} {
		assert.Regexp(t, fault+` +skipped: -namespaces=false`, text)
	}
	assert.NotContains(t, text, "BROKEN")
	assert.NotContains(t, text, idleName, "it was given no time")
}

func TestSilentFaultsAreGotOver(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	site, err := backstage.NewSite(true, 1, func(error) {})
	require.NoError(t, err)
	site.Close()
	if site.Lab == nil {
		t.Skip(site.NoLab)
	}
	var out bytes.Buffer
	code, err := show(t.Context(), options{backstage.Options{Workers: 2, Detect: 2 * time.Second, Lab: true}, hurried}, &out)
	require.NoError(t, err)
	require.Equal(t, backstage.ExitKept, code, "%s", &out)
	text := out.String()
	for _, fault := range []string{"flows forgotten, idle", "flows forgotten, busy", "one server of two gone"} {
		assert.Contains(t, cells(t, text, fault, ordinary)[2], ">")
		assert.NotContains(t, cells(t, text, fault, tuned)[2], ">")
		assert.NotContains(t, cells(t, text, fault, level1)[2], ">")
		assert.NotContains(t, cells(t, text, fault, level2)[2], ">")
	}
	for _, level := range []string{level1, level2} {
		assert.Equal(t, "0+0", cells(t, text, "flows forgotten, idle", level)[0])
		assert.NotEqual(t, "0+0", cells(t, text, "flows forgotten, busy", level)[0], "those in flight fail")
	}
	assert.NotEqual(t, "0+0", cells(t, text, "flows forgotten, idle", tuned)[0], "keepalive is slower than that")
	assert.NotContains(t, text, "skipped")
}

func TestOfTheIdleStreamsOnlyThatOfTheTunedSideIsEnded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	idle, err := newIdlers(2 * time.Second)
	require.NoError(t, err)
	defer idle.close()
	const turn = 1 // of levels: tuned
	require.Eventually(t, func() bool { return idle.look()[turn].err != nil }, 50*time.Second, 100*time.Millisecond)
	streams := idle.look()
	require.Equal(t, tuned, streams[turn].level)
	assert.Regexp(t, `^ended after \d+\.\d s: GOAWAY, .*ENHANCE_YOUR_CALM.*"too_many_pings"$`, streams[turn].fate())
	for i, s := range streams {
		if i != turn {
			assert.Regexp(t, `^open after \d`, s.fate(), s.level)
		}
	}
	assert.Less(t, streams[turn].after, defaultPace.idle, "the show is long enough for it")
	for _, p := range idleKeeps(streams) {
		assert.True(t, p.Kept, p.Text)
	}
	var out bytes.Buffer
	printTable(&out, nil, streams)
	assert.Regexp(t, idleName+` +grpc.NewClient +open after`, out.String())
}

func TestAnInterruptedShowCleansUp(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	p := hurried
	p.idle = time.Minute
	out := &rehearsal.Output{Want: "2 of 6", Seen: interrupt}
	code, err := show(ctx, options{backstage.Options{Workers: 2, Detect: 2 * time.Second, Lab: true}, p}, out)
	assert.Equal(t, backstage.ExitInterrupted, code)
	assert.ErrorContains(t, err, "interrupted")
	assert.Regexp(t, `server restarts +grpc.NewClient +\d`, out.String(), "what there is of the table")
}

func TestAnInterruptEndsTheWaitForTheIdleStreams(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	p := hurried
	p.away, p.idle = 100*time.Millisecond, time.Hour
	out := &rehearsal.Output{Want: "6 of 6", Seen: interrupt}
	code, err := show(ctx, options{backstage.Options{Workers: 1, Detect: 2 * time.Second}, p}, out)
	assert.Equal(t, backstage.ExitInterrupted, code)
	assert.ErrorContains(t, err, "interrupted")
}

func TestBadUseIsExplained(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"help", []string{"-h"}, backstage.ExitKept, "-detect"},
		{"unknown flag", []string{"-fast"}, backstage.ExitFailed, "-fast"},
		{"argument", []string{"now"}, backstage.ExitFailed, `"now"`},
		{"too few workers", []string{"-workers=0"}, backstage.ExitFailed, "-workers is 0"},
		{"too many workers", []string{"-workers=101"}, backstage.ExitFailed, "-workers is 101"},
		{"detect too short", []string{"-detect=1s"}, backstage.ExitFailed, "-detect is 1s"},
		{"detect too long", []string{"-detect=5s"}, backstage.ExitFailed, "-detect is 5s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			assert.Equal(t, test.code, start(t.Context(), test.args, io.Discard, &stderr))
			assert.Contains(t, stderr.String(), test.says)
		})
	}
}

func TestBrokenPromisesAreToldAndCounted(t *testing.T) {
	now := time.Now()
	s := &stage{detect: 2 * time.Second, workers: 1, pace: defaultPace}
	why := errors.New("no such luck")
	bad := row{struck: now, over: now, back: now, end: now.Add(9 * time.Second), failed: count{2, 1}, later: count{1, 1}, last: why}
	var results []result
	want := 2 // idle streams
	for _, f := range script(s) {
		r := result{fault: f}
		for _, level := range levels {
			row := bad
			row.level = level
			r.rows = append(r.rows, row)
		}
		results = append(results, r)
		want += 2 * len(f.keeps(bad, s))
	}
	var idle []stream
	for _, level := range levels {
		idle = append(idle, stream{level, why, time.Second})
	}
	var out bytes.Buffer
	assert.Equal(t, want, conclude(&out, s, results, idle))
	assert.Equal(t, want, strings.Count(out.String(), "BROKEN"))
	assert.Contains(t, out.String(), "not at all")
	assert.Contains(t, out.String(), "1 failed: no such luck")
}

func TestARowCountsWhatBelongsToIt(t *testing.T) {
	now := time.Now()
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	meanwhile, afterwards := errors.New("meanwhile"), errors.New("afterwards")
	r := row{struck: at(0)}
	r.ended(at(-1), at(1), true, nil)
	assert.Zero(t, r.success, "it is breaking")
	r.over, r.back = at(1), at(5)
	r.ended(at(0), at(6), true, nil)
	assert.Zero(t, r.success, "its answer may have come before")
	r.ended(at(0), at(2), true, meanwhile)
	r.ended(at(6), at(7), true, afterwards)
	r.ended(at(6), at(7), false, afterwards)
	r.ended(at(4), at(8), false, meanwhile)
	r.ended(at(2), at(9), true, nil)
	r.ended(at(9), at(10), true, nil)
	assert.Equal(t, count{2, 2}, r.failed)
	assert.Equal(t, count{1, 1}, r.later)
	assert.Equal(t, afterwards, r.last)
	assert.Equal(t, at(9), r.success)
}
