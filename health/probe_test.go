package health

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// redisWord stands for the word of a PING, redisPong for the answer to it.
const (
	redisWord = "0123456789abcdef"
	redisPong = "$16\r\n" + redisWord + "\r\n"
)

// canned is a connection on which a PING gets a fixed answer, in pieces.
type canned struct {
	net.Conn
	answer    string
	piece     int
	reader    strings.Reader
	word      string
	deadlines []time.Time
}

func (c *canned) Write(b []byte) (int, error) {
	c.word = string(b[len(b)-len(redisWord+"\r\n"):][:len(redisWord)])
	c.reader.Reset(strings.ReplaceAll(c.answer, redisWord, c.word))
	return len(b), nil
}

func (c *canned) Read(b []byte) (int, error) { return c.reader.Read(b[:min(len(b), c.piece)]) }

func (c *canned) SetDeadline(t time.Time) error {
	c.deadlines = append(c.deadlines, t)
	return nil
}

func ping(answer string, piece int) (rest string, err error) {
	c := &canned{answer: answer, piece: piece}
	err = RedisPing(context.Background(), c)
	left, _ := io.ReadAll(&c.reader)
	return strings.ReplaceAll(string(left), c.word, redisWord), err
}

// redisServer answers every PING on c, after what it is told to say before.
func redisServer(t testing.TB, c net.Conn, before string) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, len("*2\r\n$4\r\nPING\r\n"+redisPong))
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			c.Write(append([]byte(before), b[len(b)-len(redisPong):]...))
		}
	}()
}

const pushes = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nfoo\r\n" +
	">3\r\n+message\r\n:1\r\n%1\r\n$1\r\nk\r\n~2\r\n#t\r\n_\r\n" +
	">0\r\n"

func TestRedisPingReadsNothingButTheReply(t *testing.T) {
	for name, answer := range map[string]string{
		"its word":        redisPong,
		"subscribed":      "*2\r\n$4\r\npong\r\n" + redisPong,
		"push messages":   pushes + redisPong,
		"attributes":      "|1\r\n+ttl\r\n:3600\r\n" + redisPong,
		"inner attribute": ">1\r\n|1\r\n+a\r\n,1.5\r\n$2\r\nhi\r\n" + redisPong,
		"long push":       ">1\r\n$5000\r\n" + strings.Repeat("x", 5000) + "\r\n" + redisPong,
		"may not ping":    "-NOPERM User a has no permissions to run the 'ping' command\r\n",
		"busy":            "-BUSY Redis is busy running a script.\r\n",
		"shortest":        "-BUSY\r\n",
		"can't save":      "-MISCONF Redis is configured to save RDB snapshots\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			const next = "+QUEUED\r\n:1\r\n+A\r\n"
			for _, piece := range []int{1, 2, 3, 7, 8, 1000} {
				rest, err := ping(answer+next, piece)
				require.NoError(t, err)
				require.Equal(t, next, rest, "in pieces of %d", piece)
			}
		})
	}
}

func TestRedisPingFails(t *testing.T) {
	for _, test := range []struct {
		answer string
		class  Class
	}{
		{"-NOAUTH Authentication required.\r\n", Unknown},
		{"-LOADING Redis is loading the dataset in memory\r\n", Unknown},
		{"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n", Role},
		{"-ERR max number of clients reached\r\n", Unknown},
		{"+OK\r\n", Unknown},
		{"+PONG\r\n" + redisPong, Unknown},
		{"$4\r\nPONG\r\n", Unknown},
		{"$16\r\n" + strings.Repeat("f", 16) + "\r\n" + redisPong, Unknown},
		{"$16\r\n" + redisWord + "xx" + redisPong, Unknown},
		{"$17\r\n" + redisWord + "x\r\n" + redisPong, Unknown},
		{"$-1\r\n" + redisPong, Unknown},
		{"*2\r\n$4\r\npong\r\n$0\r\n\r\n" + redisPong, Unknown},
		{"*2\r\n$4\r\nping\r\n" + redisPong, Unknown},
		{"*3\r\n$4\r\npong\r\n" + redisPong, Unknown},
		{"*3\r\n$7\r\nmessage\r\n+a\r\n+b\r\n" + redisPong, Unknown},
		{"HTTP/1.1 400 Bad Request\r\n", Unknown},
		{"\r\n", Unknown},
		{"+PONG\n", Unknown},
		{">-\r\n" + redisPong, Unknown},
		{">99999999999\r\n", Unknown},
		{">1\r\n?\r\n" + redisPong, Unknown},
		{"", Conn},
		{"$1", Conn},
		{redisPong[:10], Conn},
		{">1\r\n$5\r\nab", Conn},
	} {
		_, err := ping(test.answer, 3)
		require.Error(t, err, test.answer)
		assert.Equal(t, test.class, Classify(err), "%q: %v", test.answer, err)
		assert.False(t, SafeToRetry(err), "%v", err)
		if reply, ok := strings.CutPrefix(strings.TrimSpace(test.answer), "-"); ok {
			assert.ErrorContains(t, err, reply)
		}
	}
}

func TestRedisPingEndsEndlessReplies(t *testing.T) {
	_, err := ping(strings.Repeat("-a", maxRedisLine), 1000)
	require.Error(t, err)
	_, err = ping(strings.Repeat(">1\r\n$1000000\r\n"+strings.Repeat("x", 1000000)+"\r\n>1\r\n*10000000\r\n", 20), 1000)
	require.Error(t, err)
}

func FuzzRedisPing(f *testing.F) {
	f.Add([]byte(redisPong), 7)
	f.Add([]byte("*2\r\n$4\r\npong\r\n"+redisPong), 7)
	f.Add([]byte(pushes+redisPong), 2)
	f.Add([]byte("|1\r\n+ttl\r\n:3600\r\n-NOPERM no\r\n"), 3)
	f.Fuzz(func(t *testing.T, answer []byte, piece int) {
		piece = 1 + (piece&1023+1023)%1023
		rest, err := ping(string(answer), piece)
		if err != nil {
			return
		}
		used := answer[:len(answer)-len(rest)]
		if !bytes.HasSuffix(used, []byte("\r\n")) {
			t.Fatalf("stopped after %q of %q", used, answer)
		}
		const next = redisPong + "-NOPERM \r\n"
		if rest, err = ping(string(used)+next, piece); err != nil || rest != next {
			t.Fatalf("%q followed by more: %v, left %q", used, err, rest)
		}
	})
}

func TestProbesObeyTheirContext(t *testing.T) {
	for name, run := range map[string]func(net.Conn) (error, error){
		"deadline": func(c net.Conn) (error, error) {
			return RedisPing(timeout(t, 20*time.Millisecond), c), context.DeadlineExceeded
		},
		"cancel": func(c net.Conn) (error, error) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			return RedisPing(ctx, c), context.Canceled
		},
		"ended before": func(c net.Conn) (error, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return RedisPing(ctx, c), context.Canceled
		},
		"ended before, TCP": func(c net.Conn) (error, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return TCP(ctx, c), context.Canceled
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			err, want := run(c)
			require.ErrorIs(t, err, want)
			assert.Equal(t, Canceled, Classify(err))

			// No deadline is left.
			go peer.Write([]byte("x"))
			_, err = c.Read(make([]byte, 1))
			require.NoError(t, err)
		})
	}
}

func TestRedisPingTakesExactlyItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := net.Pipe()
		defer c.Close()
		defer peer.Close()
		go io.Copy(io.Discard, peer)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, RedisPing(ctx, c), context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestRedisPingClearsWhatWasLeftBehind(t *testing.T) {
	c, peer := pair(t)
	redisServer(t, peer, "")
	require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
	require.NoError(t, RedisPing(timeout(t, within), c))
	require.NoError(t, RedisPing(context.Background(), c))
}

func TestProbesLeaveNoDeadlineBehind(t *testing.T) {
	c := &canned{answer: redisPong, piece: 100}
	ctx := timeout(t, time.Hour)
	require.NoError(t, RedisPing(ctx, c))
	deadline, _ := ctx.Deadline()
	require.Equal(t, []time.Time{deadline, {}}, c.deadlines)
}

// slow is a connection whose reader cancels the context when it has its answer,
// and which takes its time to set a deadline in the past.
type slow struct {
	canned
	cancel context.CancelFunc
}

func (c *slow) Read(b []byte) (int, error) {
	c.cancel()
	return c.canned.Read(b)
}

func (c *slow) SetDeadline(t time.Time) error {
	if !t.IsZero() {
		time.Sleep(time.Second)
	}
	return c.canned.SetDeadline(t)
}

func TestACancelationThatComesTooLateLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &slow{canned{answer: redisPong, piece: 100}, cancel}
		require.NoError(t, RedisPing(ctx, c))
		time.Sleep(time.Minute)
		require.Len(t, c.deadlines, 3)
		require.Zero(t, c.deadlines[2], "%v", c.deadlines)
	})
}

func TestRedisPingKnowsItsOwnAnswer(t *testing.T) {
	c, peer := pair(t)
	_, err := peer.Write([]byte("+PONG\r\n")) // to an earlier PING that was given up
	require.NoError(t, err)
	redisServer(t, peer, "")
	require.Error(t, RedisPing(timeout(t, within), c))

	c, peer = pair(t)
	redisServer(t, peer, redisPong)
	require.Error(t, RedisPing(timeout(t, within), c))
}

// mute is a connection whose Read returns nothing at all.
type mute struct{ canned }

func (*mute) Read([]byte) (int, error) { return 0, nil }

func TestRedisPingDoesNotSpin(t *testing.T) {
	require.ErrorIs(t, RedisPing(context.Background(), &mute{}), io.ErrNoProgress)
}

func TestRedisPingOfDeadConnections(t *testing.T) {
	c, peer := pair(t)
	require.NoError(t, peer.Close())
	assert.Equal(t, Conn, Classify(RedisPing(timeout(t, within), c)))
	require.NoError(t, c.Close())
	require.ErrorIs(t, RedisPing(timeout(t, within), c), net.ErrClosed)
}

func TestRedisPingAgainstRedis(t *testing.T) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("no redis-server: ", err)
	}
	sock := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(bin, "--port", "0", "--unixsocket", sock, "--save", "", "--requirepass", "secret")
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()

	var c net.Conn
	eventually(t, "redis-server listens", func() bool {
		c, err = net.Dial("unix", sock)
		return err == nil
	})
	defer c.Close()
	ctx := timeout(t, within)
	require.ErrorContains(t, RedisPing(ctx, c), "NOAUTH")
	_, err = c.Write([]byte("AUTH secret\r\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, len("+OK\r\n")))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, RedisPing(ctx, c))
		require.NoError(t, TCP(ctx, c))
	}
	_, err = c.Write([]byte("SUBSCRIBE x\r\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, len("*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n")))
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, RedisPing(ctx, c))
		require.NoError(t, TCP(ctx, c))
	}
}

func TestTCPProbe(t *testing.T) {
	ctx := timeout(t, within)
	c, peer := pair(t)
	require.NoError(t, TCP(ctx, c))
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	eventually(t, "the byte arrives", func() bool { return errors.Is(TCP(ctx, c), ErrUnread) })
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, TCP(ctx, c))
	require.NoError(t, peer.Close())
	eventually(t, "the FIN arrives", func() bool { return errors.Is(TCP(ctx, c), io.EOF) })
	require.NoError(t, c.Close())
	require.ErrorIs(t, TCP(ctx, c), net.ErrClosed)

	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	require.ErrorIs(t, TCP(ctx, p), errors.ErrUnsupported)
}

func BenchmarkRedisPing(b *testing.B) {
	c := &canned{answer: redisPong, piece: 100}
	ctx := timeout(b, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		c.deadlines = c.deadlines[:0]
		if err := RedisPing(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
}
