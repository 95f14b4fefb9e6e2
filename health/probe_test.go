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

// canned is a connection on which a fixed answer waits, in pieces.
type canned struct {
	net.Conn
	answer *bytes.Reader
	piece  int
}

func (c *canned) Write(b []byte) (int, error)   { return len(b), nil }
func (c *canned) SetDeadline(t time.Time) error { return nil }
func (c *canned) Read(b []byte) (int, error) {
	return c.answer.Read(b[:min(len(b), c.piece)])
}

func ping(answer string, piece int) (rest string, err error) {
	c := &canned{answer: bytes.NewReader([]byte(answer)), piece: piece}
	err = RedisPing(context.Background(), c)
	left, _ := io.ReadAll(c.answer)
	return string(left), err
}

const pushes = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nfoo\r\n" +
	">3\r\n+message\r\n:1\r\n%1\r\n$1\r\nk\r\n~2\r\n#t\r\n_\r\n" +
	">0\r\n"

func TestRedisPingReadsNothingButTheReply(t *testing.T) {
	for name, answer := range map[string]string{
		"RESP2":           "+PONG\r\n",
		"push messages":   pushes + "+PONG\r\n",
		"attributes":      "|1\r\n+ttl\r\n:3600\r\n+PONG\r\n",
		"inner attribute": ">1\r\n|1\r\n+a\r\n,1.5\r\n$2\r\nhi\r\n+PONG\r\n",
		"long push":       ">1\r\n$5000\r\n" + strings.Repeat("x", 5000) + "\r\n+PONG\r\n",
		"may not ping":    "-NOPERM User a has no permissions to run the 'ping' command\r\n",
		"busy":            "-BUSY Redis is busy running a script.\r\n",
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
		{"$4\r\nPONG\r\n", Unknown},
		{"*2\r\n$4\r\npong\r\n$0\r\n\r\n", Unknown},
		{"HTTP/1.1 400 Bad Request\r\n", Unknown},
		{"\r\n", Unknown},
		{"+PONG\n", Unknown},
		{">-\r\n+PONG\r\n", Unknown},
		{">99999999999\r\n", Unknown},
		{">1\r\n?\r\n+PONG\r\n", Unknown},
		{"", Conn},
		{"+PO", Conn},
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
	f.Add([]byte("+PONG\r\n"), 7)
	f.Add([]byte(pushes+"+PONG\r\n"), 2)
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
		const next = "+PONG\r\n-NOPERM \r\n"
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
	require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
	_, err := peer.Write([]byte(redisPong))
	require.NoError(t, err)
	require.NoError(t, RedisPing(timeout(t, within), c))
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
	c := &canned{answer: bytes.NewReader([]byte(redisPong)), piece: 7}
	ctx := timeout(b, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		c.answer.Seek(0, io.SeekStart)
		if err := RedisPing(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
}
