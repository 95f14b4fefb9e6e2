package backstage

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAGateLetsSoManyPassAndClosesWhenTheyHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var g Gate
		const takes = time.Second
		var passes [3]int
		for id := range passes {
			go func() {
				for g.Pass(ctx, id) {
					passes[id]++
					time.Sleep(takes)
					g.Leave()
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, [3]int{}, passes, "it is closed at first")
		g.Open(2)
		time.Sleep(takes/2 + 9*takes)
		synctest.Wait()
		assert.Equal(t, [3]int{10, 10, 0}, passes)
		began := time.Now()
		g.Close(ctx)
		assert.Equal(t, takes/2, time.Since(began))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, [3]int{10, 10, 0}, passes)
		g.Open(3)
		synctest.Wait()
		assert.Equal(t, [3]int{11, 11, 1}, passes)
		ended, end := context.WithCancel(ctx)
		end()
		g.Close(ended) // doesn't wait
		assert.False(t, g.Pass(ended, 0))
		cancel()
		synctest.Wait()
		time.Sleep(takes) // for those inside
	})
}

func TestAListenerComesBackToItsAddress(t *testing.T) {
	site, err := NewSite(false, 1, nil)
	require.NoError(t, err)
	defer site.Close()
	assert.Equal(t, "-namespaces=false", site.NoLab)
	listen, addr, err := site.Listener(0, 0)
	require.NoError(t, err)
	first, err := listen()
	require.NoError(t, err)
	assert.Equal(t, addr, first.Addr().String())
	require.NoError(t, first.Close())
	second, err := listen()
	require.NoError(t, err)
	assert.Equal(t, addr, second.Addr().String())
	require.NoError(t, second.Close())
}

func TestAPortThatIsTakenIsWaitedForForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		taken := func(d time.Duration) func() (net.Listener, error) {
			return func() (net.Listener, error) {
				if time.Since(began) < d {
					return nil, syscall.EADDRINUSE
				}
				return new(net.TCPListener), nil
			}
		}
		ln, err := patiently(taken(time.Second))
		require.NoError(t, err)
		assert.NotNil(t, ln)
		assert.Equal(t, time.Second, time.Since(began))
		began = time.Now()
		_, err = patiently(taken(time.Hour))
		assert.ErrorIs(t, err, syscall.EADDRINUSE)
		assert.InDelta(t, patience, time.Since(began), float64(50*time.Millisecond))
	})
}

func TestAProgramReturnsWhatItsShowDoes(t *testing.T) {
	var o Options
	p := Program{
		Name: "it", About: "Shows it.", Flags: o.Flags, Check: func() error { return nil },
		Show: func(_ context.Context, out io.Writer) (int, error) {
			_, _ = io.WriteString(out, "seen")
			return Verdict(t.Context(), errors.New("the lab broke"), 0)
		},
	}
	var stdout, stderr bytes.Buffer
	assert.Equal(t, ExitFailed, p.Start(t.Context(), []string{"-workers=7"}, &stdout, &stderr))
	assert.Equal(t, 7, o.Workers)
	assert.Equal(t, "seen", stdout.String())
	assert.Equal(t, "it: the lab broke\n", stderr.String())

	stderr.Reset()
	assert.Equal(t, ExitKept, p.Start(t.Context(), []string{"-h"}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "usage: it [flags]\n\nShows it.\n\n")
	assert.Contains(t, stderr.String(), "-namespaces")
	assert.Equal(t, "seen", stdout.String(), "no show")

	p.Flags = func(*flag.FlagSet) {}
	assert.Equal(t, ExitFailed, p.Start(t.Context(), []string{"-workers=7"}, &stdout, io.Discard))
}

func TestTheVerdictIsTheWorstThatHappened(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	broke := errors.New("the lab broke")
	for _, test := range []struct {
		ctx    context.Context
		err    error
		broken int
		code   int
		says   string
	}{
		{t.Context(), nil, 0, ExitKept, ""},
		{t.Context(), nil, 1, ExitBroken, ""},
		{t.Context(), broke, 1, ExitFailed, "the lab broke"},
		{interrupted, broke, 1, ExitInterrupted, "interrupted"},
	} {
		code, err := Verdict(test.ctx, test.err, test.broken)
		assert.Equal(t, test.code, code)
		if test.says == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, test.says)
		}
	}
}

func TestPromisesAreKeptOrBroken(t *testing.T) {
	var out bytes.Buffer
	assert.Equal(t, 2, PrintPromises(&out, "fault", 7, []Promise{
		AtMost("it ends", time.Second, time.Second, false),
		AtMost("it ends", 1100*time.Millisecond, time.Second, false),
		AtMost("it ends", 0, time.Second, true),
	}))
	assert.Equal(t, ""+
		"kept    fault   it ends within 1.0 s (1.0 s)\n"+
		"BROKEN  fault   it ends within 1.0 s (1.1 s)\n"+
		"BROKEN  fault   it ends within 1.0 s (not at all)\n", out.String())
}

func TestTimesAreShort(t *testing.T) {
	t0 := time.Now()
	assert.Equal(t, "1.5 ms", Span(t0, t0.Add(1500*time.Microsecond), t0.Add(time.Hour)))
	assert.Equal(t, "> 4.0 s", Span(t0, time.Time{}, t0.Add(4*time.Second)))
	assert.Equal(t, "250 ms", Short(250*time.Millisecond))
	assert.Equal(t, "\n1 of 2: it\n  breaks\n", Head(1, 2, "it", "breaks"))
	assert.Equal(t, " a bc\n def", Wrap("a bc  def", " ", 6))
}
