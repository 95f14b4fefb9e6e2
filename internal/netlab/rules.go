package netlab

import (
	"fmt"
	"strings"
)

// track makes the router keep state for the given servers. The caller holds
// l.mu.
func (l *Lab) track(servers ...*Host) error {
	for _, h := range servers {
		h.path.stateful = true
	}
	if l.tracking {
		return nil
	}
	if err := l.nft(l.stateRules()); err != nil {
		return err
	}
	// This setting exists only now. Without it the kernel would take any segment
	// in the middle of a flow for the beginning of one.
	s := []setting{{path: "netfilter/nf_conntrack_tcp_loose", value: "0"}}
	if l.cfg.NATTimeout > 0 {
		s = append(s, setting{path: "netfilter/nf_conntrack_tcp_timeout_established", value: fmt.Sprint(seconds(l.cfg.NATTimeout))})
	}
	if err := l.Router.sysctl(s); err != nil {
		return err
	}
	l.tracking = true
	return nil
}

func (l *Lab) nft(rules string) error {
	return l.Router.run(rules, nil, l.tools.nft, "-f", "-")
}

// faultRules replaces, in one transaction, what the router does to packets that
// it forwards. Packets to and from the router itself are left alone: dropping
// neighbour solicitations would make a silent fault an audible one.
func (l *Lab) faultRules() string {
	var b strings.Builder
	b.WriteString("table inet faults { chain forward { type filter hook forward priority 0; }; }\nflush table inet faults\n")
	rule := func(format string, args ...any) {
		fmt.Fprintf(&b, "add rule inet faults forward "+format+"\n", args...)
	}
	for _, h := range l.ends() {
		p := h.path
		if p.dropTo {
			rule("oifname %s drop", h.dev)
		}
		if p.dropFrom {
			rule("iifname %s drop", h.dev)
		}
		if p.unreachable {
			rule("iifname %s drop", h.dev)
			rule("oifname %s reject with icmpx type host-unreachable", h.dev)
		}
		if p.refuse {
			rule("oifname %s meta l4proto tcp reject with tcp reset", h.dev)
			rule("iifname %s meta l4proto tcp reject with tcp reset", h.dev)
		}
		if p.loss > 0 {
			// nft refuses "< 1000000", which is always true.
			rule("oifname %s numgen random mod 1000000 <= %d drop", h.dev, p.loss-1)
			rule("iifname %s numgen random mod 1000000 <= %d drop", h.dev, p.loss-1)
		}
	}
	return b.String()
}

// stateRules replaces the rules that make the router stateful. State belongs to
// a conntrack zone; to forget is to look into another zone from now on. Flows
// between the client and a server have a zone of their own.
func (l *Lab) stateRules() string {
	var b strings.Builder
	b.WriteString(`table inet state {
	chain zone { type filter hook prerouting priority -300; }
	chain forward { type filter hook forward priority -10; }
	chain input { type filter hook input priority -10; }
	chain nat { type nat hook postrouting priority 100; }
}
flush table inet state
`)
	rule := func(chain, format string, args ...any) {
		fmt.Fprintf(&b, "add rule inet state "+chain+" "+format+"\n", args...)
	}
	rule("forward", "ct state new accept") // at least one rule turns tracking on
	c := l.Client
	for _, h := range l.Servers {
		zone := h.num<<8 | int(h.path.epoch&0xff)
		rule("zone", "iifname %s ip daddr %v ct zone set %d", c.dev, h.IPv4(), zone)
		rule("zone", "iifname %s ip6 daddr %v ct zone set %d", c.dev, h.IPv6(), zone)
		rule("zone", "iifname %s ip daddr { %v, %v } ct zone set %d", h.dev, c.IPv4(), addr4(h.num, 1), zone)
		rule("zone", "iifname %s ip6 daddr { %v, %v } ct zone set %d", h.dev, c.IPv6(), addr6(h.num, 1), zone)
		if !h.path.stateful {
			continue
		}
		for _, where := range []string{"forward oifname", "forward iifname", "input iifname"} {
			chain, match, _ := strings.Cut(where, " ")
			if h.path.answer {
				rule(chain, "%s %s ct state invalid meta l4proto tcp reject with tcp reset", match, h.dev)
			}
			rule(chain, "%s %s ct state invalid drop", match, h.dev)
		}
	}
	if l.cfg.NAT {
		rule("nat", "ip saddr %v/24 masquerade", addr4(c.num, 0))
		rule("nat", "ip6 saddr %v/64 masquerade", addr6(c.num, 0))
	}
	return b.String()
}
