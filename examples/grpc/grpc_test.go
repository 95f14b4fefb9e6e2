package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hurried = pace{
	think:    20 * time.Millisecond,
	settle:   300 * time.Millisecond,
	away:     time.Second,
	watched:  2 * time.Second,
	deadline: time.Second,
}

func TestTheShowEndsWithATableAndKeptPromises(t *testing.T) {
	var out bytes.Buffer
	code, err := show(t.Context(), options{workers: 2, detect: 2 * time.Second, pace: hurried}, &out)
	require.NoError(t, err)
	require.Equal(t, exitKept, code, "%s", &out)
	for _, want := range []string{`server restarts +grpc.NewClient +\d+`, `DialOptions +\d+`, `Pool +\d+`, `flows forgotten +skipped: -namespaces=false`} {
		assert.Regexp(t, want, out.String())
	}
}

func TestTheShowInNamespaces(t *testing.T) {
	var out bytes.Buffer
	p := hurried
	p.away, p.watched = 3*time.Second, 5*time.Second
	code, err := show(t.Context(), options{workers: 2, detect: 2 * time.Second, lab: true, pace: p}, &out)
	require.NoError(t, err)
	require.Equal(t, exitKept, code, "%s", &out)
	if strings.Contains(out.String(), "skipped") {
		t.Skip(out.String())
	}
	assert.Regexp(t, `packets dropped +grpc.NewClient +\d+`, out.String())
	assert.Regexp(t, `flows forgotten +grpc.NewClient +\d+ .* > 5s`, out.String())
}

func TestAnInterruptedShowSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, err := show(ctx, options{workers: 1, detect: 2 * time.Second, pace: hurried}, io.Discard)
	require.NoError(t, err)
	assert.Equal(t, exitInterrupted, code)
}

func TestFlagsThatAreWrongAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"-workers=0": "-workers is 0", "-detect=1s": "-detect is 1s", "x": `unknown argument "x"`, "-y": "not defined",
	} {
		var stderr bytes.Buffer
		assert.Equal(t, exitFailed, start(t.Context(), []string{args}, io.Discard, &stderr))
		assert.Contains(t, stderr.String(), want)
	}
}
