package dial

import (
	"net"
	"time"
)

// HighlyAvailable is for peers that have a stand-in, where the time until a
// death is noticed is time lost: replicated databases, caches, anything behind
// a virtual address. A dead peer is noticed within 5 s (keep-alive 2s:1s:3), or
// as soon as a router says that it can't be reached if data is in flight, and a
// dial gives up after 3 s.
//
// Outages shorter than 5 s do no harm unless a router reports them; longer ones
// cost the connection. An idle connection costs 30 probes and as many answers a
// minute.
func HighlyAvailable() Config {
	return Config{
		DetectWithin:    5 * time.Second,
		Timeout:         3 * time.Second,
		FastUnreachable: true,
	}
}

// RarelyUsed is for connections that sit idle most of the time: management
// agents, subscriptions, devices on metered links. The peer is probed after 2
// minutes of silence, often enough for the 4 or more minutes after which common
// NATs and load balancers forget a flow, and a dead peer is noticed within 5
// minutes (keep-alive 2m:1m:3). The kernel's timers may take up to an eighth
// longer, as [DetectionTime] says.
//
// Packets are dear there: the guard sends none for the sake of freshness, so
// that an idle connection costs the one probe and its answer every 2 minutes,
// and data that stays unacknowledged is sent again every 10 s at the most.
func RarelyUsed() Config {
	return Config{
		DetectWithin: 5 * time.Minute,
		FreshFor:     -1,
		RTOMax:       10 * time.Second,
	}
}

// DistributedNodes is for the nodes of one system that talk to each other all
// the time over networks that lose packets: losing a connection costs a
// resynchronisation, so that it should take more than a hiccup. A dead peer is
// noticed within 20 s, and it takes five lost probes in a row to be wrong about
// it (keep-alive 5s:3s:5); or four, if its other connections are as silent while
// a new one works.
func DistributedNodes() Config {
	return Config{
		DetectWithin: 20 * time.Second,
		KeepAlive:    net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 5},
	}
}
