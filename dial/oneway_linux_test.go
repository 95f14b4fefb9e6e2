package dial

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The peer repeats what it has sent, since our acknowledgements don't reach it, and
// is heard all the while. So it isn't silent, and yet our data never arrives.
func TestAPeerThatIsHeardButDoesNotHearUsIsGivenUp(t *testing.T) {
	t.Parallel()
	const within = 2 * time.Second
	lab := netlab.New(t)
	ln := lab.Server.Listen(t, labPort)
	speak := make(chan struct{})
	go accept(ln, func(c net.Conn) {
		<-speak
		_, _ = c.Write([]byte("x"))
		<-t.Context().Done()
		c.Close()
	})
	d := labDialer(t, lab, Config{DetectWithin: within})
	c := labDial(t, lab, d)
	lab.Drop(netlab.ToServer)
	begin := watched(t)
	close(speak)
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	b := make([]byte, 1)
	_, err = c.Read(b)
	require.NoError(t, err)
	_, err = c.Read(b)
	took := begin.took()
	t.Logf("%v after %v", err, took)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.LessOrEqual(t, took, allowed(d.UserTimeout()+slack))
}
