package main

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/examples/internal/backstage"
	"github.com/holdfast-go/holdfast/examples/internal/backstage/rehearsal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hurried = pace{
	takes:    5 * time.Millisecond,
	think:    20 * time.Millisecond,
	settle:   300 * time.Millisecond,
	away:     300 * time.Millisecond,
	rounds:   3,
	deadline: 4 * time.Second,
	dropped:  time.Second,
	watched:  4 * time.Second,
}

// cell is what the table says of a fault, a protocol and a level.
type cell struct{ gets, posts int }

func cells(t *testing.T, out, fault, protocol, level string) cell {
	t.Helper()
	apart := regexp.MustCompile(`\s{2,}`)
	name := ""
	for line := range strings.Lines(out) {
		c := apart.Split(strings.TrimRight(line, " \n"), -1)
		if len(c) != 2+3*len(levels) {
			continue
		}
		if c[0] != "" {
			name = c[0]
		}
		if name != fault || c[1] != protocol {
			continue
		}
		for i, l := range levels {
			if l == level {
				gets, posts, ok := strings.Cut(c[2+3*i], "+")
				require.True(t, ok, line)
				g, err := strconv.Atoi(gets)
				require.NoError(t, err)
				p, err := strconv.Atoi(posts)
				require.NoError(t, err)
				return cell{g, p}
			}
		}
	}
	require.Failf(t, "no such row", "%s, %s in:\n%s", fault, protocol, out)
	return cell{}
}

func TestTheShowEndsWithATableAndKeptPromises(t *testing.T) {
	var out bytes.Buffer
	code, err := show(t.Context(), options{backstage.Options{Workers: 4, Detect: 2 * time.Second}, hurried}, &out)
	require.NoError(t, err)
	require.Equal(t, backstage.ExitKept, code, "%s", &out)
	text := out.String()
	for _, protocol := range protocols {
		assert.Zero(t, cells(t, text, "server restarts", protocol, level2).gets)
		assert.NotZero(t, cells(t, text, "server restarts", protocol, level1).gets)
		assert.NotZero(t, cells(t, text, "server restarts", protocol, ordinary).gets)
		for _, fault := range []string{"idle ones closed", "connections reset"} {
			assert.Zero(t, cells(t, text, fault, protocol, level2).gets)
		}
	}
	assert.Regexp(t, `packets dropped +skipped: -namespaces=false`, text)
	assert.NotContains(t, text, "BROKEN")
}

func TestSilentFaultsCostAClientNoGET(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	site, err := backstage.NewSite(true, 1, func(error) {})
	require.NoError(t, err)
	site.Close()
	if site.Lab == nil {
		t.Skip(site.NoLab)
	}
	var out bytes.Buffer
	code, err := show(t.Context(), options{backstage.Options{Workers: 4, Detect: 2 * time.Second, Lab: true}, hurried}, &out)
	require.NoError(t, err)
	require.Equal(t, backstage.ExitKept, code, "%s", &out)
	text := out.String()
	for _, protocol := range protocols {
		for _, fault := range []string{"flows forgotten, idle", "flows forgotten, busy"} {
			assert.Zero(t, cells(t, text, fault, protocol, level2).gets)
			assert.NotZero(t, cells(t, text, fault, protocol, ordinary).gets)
		}
	}
	assert.NotContains(t, text, "skipped")
}

func TestAnInterruptedShowCleansUp(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := &rehearsal.Output{Want: "2 of 6", Seen: interrupt}
	code, err := show(ctx, options{backstage.Options{Workers: 2, Detect: 2 * time.Second, Lab: true}, hurried}, out)
	assert.Equal(t, backstage.ExitInterrupted, code)
	assert.ErrorContains(t, err, "interrupted")
	assert.Contains(t, out.String(), "server restarts")
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
		{"detect too short", []string{"-detect=1s"}, backstage.ExitFailed, "-detect is 1s"},
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
	s := &stage{detect: 2 * time.Second, pace: defaultPace}
	bad := row{struck: now, over: now, back: now, end: now.Add(9 * time.Second), gets: 1, posts: 1, wrong: 1, twice: 1, longest: 9 * time.Second}
	var results []result
	want := 2 // at all times
	for _, f := range script(s) {
		r := result{fault: f}
		for _, level := range levels {
			row := bad
			row.level, row.protocol = level, protocols[0]
			r.rows = append(r.rows, row)
		}
		results = append(results, r)
		want += len(f.keeps(bad, s))
		if f.first != nil {
			want += len(f.first(bad, s))
		}
	}
	var out bytes.Buffer
	assert.Equal(t, want, conclude(&out, s, results))
	assert.Equal(t, want, strings.Count(out.String(), "BROKEN"))
	assert.Contains(t, out.String(), "not at all")
}
