package dial

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The guard gives a connection all of its time, which the kernel counts in
// seconds, and with SlowReaders or a far backstop wouldn't keep at all.
func TestAGuardedConnectionDiesAtDetectWithinIdleOrBusy(t *testing.T) {
	t.Parallel()
	lab, clock := netlab.New(t), netlab.NewClock(t)
	labEcho(t, lab)
	type victim struct {
		name string
		cfg  Config
		busy bool
		d    *Dialer
		c    net.Conn
		err  error
		took time.Duration
		most time.Duration
	}
	var victims []*victim
	for name, cfg := range map[string]Config{
		"2s":                           {DetectWithin: 2 * time.Second},
		"3.7s":                         {DetectWithin: 3700 * time.Millisecond},
		"5s":                           {DetectWithin: 5 * time.Second},
		"slow readers":                 {DetectWithin: 4 * time.Second, SlowReaders: true},
		"slow readers with a backstop": {DetectWithin: 4 * time.Second, SlowReaders: true, UserTimeout: time.Hour},
		"no user timeout":              {DetectWithin: 4 * time.Second, UserTimeout: -1},
		"not kept fresh":               {DetectWithin: 4 * time.Second, FreshFor: -1},
	} {
		for _, busy := range []bool{false, true} {
			v := &victim{name: fmt.Sprintf("%s, busy=%v", name, busy), cfg: cfg, busy: busy, d: labDialer(t, lab, cfg)}
			v.c = labDial(t, lab, v.d)
			victims = append(victims, v)
			s, err := v.d.Inspect(v.c)
			require.NoError(t, err)
			assert.LessOrEqual(t, s.DetectIdle, cfg.DetectWithin, v.name)
			assert.LessOrEqual(t, s.DetectBusy, cfg.DetectWithin, v.name)
			require.NoError(t, v.c.SetDeadline(time.Now().Add(20*time.Second)))
		}
	}
	for _, v := range victims {
		talk(t, v.c)
	}
	before := time.Now()
	lab.Drop() // takes effect between the two
	begin := time.Now()
	var reads sync.WaitGroup
	for _, v := range victims {
		if v.busy {
			_, err := v.c.Write([]byte("x"))
			require.NoError(t, err)
		}
		reads.Go(func() {
			_, v.err = v.c.Read(make([]byte, 1))
			v.took, v.most = clock.Since(begin), time.Since(before)
		})
	}
	reads.Wait()
	for _, v := range victims {
		t.Run(v.name, func(t *testing.T) {
			judge(t, v.d, v.c, v.err, v.took, v.cfg.DetectWithin, syscall.ETIMEDOUT)
			assert.GreaterOrEqual(t, v.most, v.cfg.DetectWithin-500*time.Millisecond, "not before its time")
		})
	}
}
