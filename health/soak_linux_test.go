package health

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

var (
	soakTime = flag.Duration("holdfast.soak", 30*time.Second, "how long TestNoLivingConnectionIsEnded runs")
	soakOnly = flag.String("holdfast.soak.only", "", "its `scenario`, if only one is to run, four times at once; empty: all")
)

// soak is a lab whose client process has connections to the processes of two
// servers.
type soak struct {
	*netlab.Lab
	soakScenario
	t      *testing.T
	orders soakOrders
	client *netlab.Process
	served []*netlab.Process
	until  time.Time

	stops, outages int
	stopped, down  time.Duration
	longestDown    time.Duration
}

// soakScenario is a kind of trouble. step makes some of it, and takes its time.
type soakScenario struct {
	name     string
	bulk     int
	maxPause time.Duration
	prepare  func(s *soak)
	step     func(s *soak)
}

const (
	soakPauses = 3 * time.Second
	soakOutage = 3 * time.Second // which ends no connection
)

// All of it stays below what ends a connection: DetectWithin less the time in
// which an idle connection isn't asked is 3 s, and what is lost at random besides
// needs time to be repeated.
var soakScenarios = []soakScenario{
	{
		name: "delays", bulk: 128 << 10, maxPause: time.Second,
		step: func(s *soak) {
			s.Delay(rand.N(150*time.Millisecond), rand.N(250*time.Millisecond))
			s.idle(1500 * time.Millisecond)
			if rand.IntN(4) == 0 {
				s.stopServer(soakPauses)
			}
		},
	},
	{
		name: "loss", bulk: 128 << 10, maxPause: time.Second,
		prepare: func(s *soak) {
			s.Delay(10*time.Millisecond, 20*time.Millisecond)
			s.Loss(2)
		},
		step: func(s *soak) { s.idle(time.Second) },
	},
	{
		name: "queues", bulk: 512 << 10, maxPause: time.Second,
		step: func(s *soak) {
			s.Rate(2_000_000+rand.IntN(8_000_000), 50*time.Millisecond+rand.N(time.Second))
			s.idle(10 * time.Second)
		},
	},
	{
		name: "pauses", bulk: 128 << 10, maxPause: soakPauses,
		step: func(s *soak) {
			if rand.IntN(3) == 0 {
				s.stopServer(soakPauses)
			} else {
				s.stopClient(soakPauses)
			}
			s.idle(3 * time.Second)
		},
	},
	{
		name: "outages", bulk: 128 << 10,
		step: func(s *soak) {
			s.outage(2800 * time.Millisecond)
			time.Sleep(3 * time.Second) // for repetitions, which back off
			s.idle(3 * time.Second)
		},
	},
	{
		name: "all but outages", bulk: 128 << 10, maxPause: time.Second,
		prepare: func(s *soak) {
			s.Delay(time.Millisecond, 10*time.Millisecond)
			s.Loss(2)
			s.Rate(8_000_000, 200*time.Millisecond)
		},
		step: func(s *soak) {
			s.Delay(rand.N(50*time.Millisecond), rand.N(100*time.Millisecond))
			s.idle(2 * time.Second)
			s.stopClient(1500 * time.Millisecond)
			s.idle(2 * time.Second)
			s.stopServer(2 * time.Second)
		},
	},
}

// TestNoLivingConnectionIsEnded is a soak: programs with many connections, idle,
// chatting and under load, with and without TLS and the kernel's own limits, in
// networks that delay and lose packets, are slow, or fail for less than three
// seconds, and on machines that stand still. Neither the Guard nor the kernel
// may end any of the connections, and all options must be the owner's again in
// the end. It takes 30 s, or what the flag -holdfast.soak says:
//
//	go test ./health -v -run NoLivingConnection -timeout 20m -holdfast.soak 10m
//	go test ./health -v -run NoLivingConnection -holdfast.soak 100s -holdfast.soak.only outages
func TestNoLivingConnectionIsEnded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ", *soakTime)
	}
	t.Parallel()
	// The load ends early enough for its last uploads, some of which aren't read
	// for long.
	began := time.Now()
	until := began.Add(*soakTime - 9*time.Second)
	scenarios := soakScenarios
	if *soakOnly != "" {
		scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(s soakScenario) bool { return s.name != *soakOnly })
		scenarios = slices.Repeat(scenarios, 4)
	}
	require.NotEmpty(t, scenarios)
	soaks := make([]*soak, len(scenarios))
	for i, scenario := range scenarios {
		soaks[i] = newSoak(t, scenario)
	}
	reports := make([]soakReport, len(soaks))
	var wg sync.WaitGroup // subtests wouldn't all run at once
	for i, s := range soaks {
		wg.Go(func() { reports[i] = s.run(until) })
	}
	wg.Wait()
	var all soakReport
	for i, report := range reports {
		assert.Positive(t, report.Asks, soaks[i].name)
		if soaks[i].longestDown > soakOutage {
			t.Logf("%s: this machine is too slow to end an outage in time: %v", soaks[i].name, report.Wrong)
			report.Wrong = nil
		}
		for _, wrong := range report.Wrong {
			t.Errorf("%s: %s", soaks[i].name, wrong)
		}
		all.add(report)
	}
	t.Logf("all of %v: %v", time.Since(began).Round(time.Second), &all)
}

func newSoak(t *testing.T, scenario soakScenario) *soak {
	t.Helper()
	s := &soak{soakScenario: scenario, t: t}
	s.Lab = netlab.NewWith(t, netlab.Config{Servers: 2, Fail: func(err error) { t.Error(scenario.name, err) }})
	if scenario.prepare != nil {
		scenario.prepare(s)
	}
	s.orders = soakOrders{Conns: 60, Bulk: scenario.bulk, MaxPause: scenario.maxPause}
	for _, server := range s.Servers {
		s.orders.Servers = append(s.orders.Servers, server.IPv4().String())
		p := server.Helper(t, "TestSoakServerProcess")
		s.served = append(s.served, p)
		s.ready(p)
	}
	orders, err := json.Marshal(s.orders)
	require.NoError(t, err)
	s.client = s.Client.Helper(t, "TestSoakClientProcess", string(orders))
	s.ready(s.client)
	return s
}

func (s *soak) ready(p *netlab.Process) {
	s.t.Helper()
	line, err := p.Stdout.ReadString('\n')
	require.NoError(s.t, err)
	require.Equal(s.t, "ready\n", line)
}

// run makes trouble until the time is over, ends it, and has the client's report.
func (s *soak) run(until time.Time) (report soakReport) {
	s.until = until
	for time.Now().Before(until) {
		s.step(s)
	}
	s.Heal()
	_, err := fmt.Fprintln(s.client.Stdin, "end")
	assert.NoError(s.t, err, s.name)
	assert.NoError(s.t, json.NewDecoder(s.client.Stdout).Decode(&report), s.name)
	s.t.Logf("%s: processes stopped %d times, %v; %d outages, %v (≤ %v); %v", s.name, s.stops,
		s.stopped.Round(time.Millisecond), s.outages, s.down.Round(time.Millisecond), s.longestDown.Round(time.Millisecond), &report)
	return report
}

// idle waits for a random time below longest.
func (s *soak) idle(longest time.Duration) {
	time.Sleep(min(rand.N(longest), max(0, time.Until(s.until))))
}

func (s *soak) stopClient(longest time.Duration) { s.stop(s.client, longest) }

func (s *soak) stopServer(longest time.Duration) {
	s.stop(s.served[rand.IntN(len(s.served))], longest)
}

// stop has a process stand still for between 0.1 s and longest.
func (s *soak) stop(p *netlab.Process, longest time.Duration) {
	const shortest = 100 * time.Millisecond
	began := time.Now()
	p.Stop()
	time.Sleep(shortest + rand.N(longest-shortest))
	p.Continue()
	s.stops++
	s.stopped += time.Since(began)
}

// outage has the network fail for between 0.1 s and longest.
func (s *soak) outage(longest time.Duration) {
	const shortest = 100 * time.Millisecond
	began := time.Now()
	s.Drop()
	time.Sleep(shortest + rand.N(longest-shortest))
	s.Heal()
	s.outages++
	s.down += time.Since(began)
	s.longestDown = max(s.longestDown, time.Since(began))
}
