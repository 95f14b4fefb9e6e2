package grpcclient

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

// The server loses its power, and its name gets another one's address: at once, or
// when the loss was noticed and the name looked up already.
func TestWhenAServerIsGoneCallsMoveToTheOneThatItsNameGets(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T){}
	for _, after := range []time.Duration{0, 6500 * time.Millisecond} {
		tests[fmt.Sprintf("%v after the loss", after)] = func(t *testing.T) { renamed(t, after) }
	}
	together(t, tests)
}

func renamed(t *testing.T, after time.Duration) {
	l := newLab(t, netlab.Config{Servers: 2})
	names := newNameServer(t, l.Servers[0].IPv4().String())
	cc := l.connected(t, names.target(fmt.Sprint(labPort)))
	lost := time.Now()
	l.Servers[0].Drop()
	timer := time.AfterFunc(after, func() { names.answer(dnsmessage.RCodeSuccess, l.Servers[1].IPv4().String()) })
	defer timer.Stop()
	o := inTurn(t, cc, lost, 20)
	t.Logf("%v; %d lookups", o, names.asked())
	assert.Equal(t, "server1", o.who)
	within := 7 * time.Second
	if after > 0 {
		within = after + 4500*time.Millisecond // lookups are at most 4 s apart by then, but calls fail meanwhile
	} else {
		assert.LessOrEqual(t, len(o.failed), 2)
	}
	assert.LessOrEqual(t, o.first, l.limit(lost, within))
}
