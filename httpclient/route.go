package httpclient

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// hostKey is what connections to the same host have in common.
type hostKey struct {
	scheme string
	addr   string // without the scheme's own port
	proxy  string // with user and password
}

// direct reports whether a request is none for a pool.
func direct(req *http.Request) bool {
	if s := req.URL.Scheme; s != "http" && s != "https" {
		return true
	}
	return upgrades(req) || !isASCII(req.URL.Host)
}

// upgrades reports whether a request asks for a WebSocket, which needs HTTP/1.1.
func upgrades(req *http.Request) bool {
	if len(req.Header["Upgrade"]) == 0 {
		return false
	}
	return strings.EqualFold(req.Header.Get("Upgrade"), "websocket") &&
		strings.Contains(strings.ToLower(req.Header.Get("Connection")), "upgrade")
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// hostOf returns the host that a request goes to, which is used until leave.
func (c *Client) hostOf(req *http.Request) (*host, error) {
	u := req.URL
	key := hostKey{scheme: u.Scheme, addr: strings.ToLower(withoutPort(u))}
	var proxy *url.URL
	if c.proxy != nil {
		var err error
		if proxy, err = c.proxy(req); err != nil {
			return nil, err
		}
	}
	if proxy != nil {
		key.proxy = proxy.String()
		if u.Scheme == "http" && (proxy.Scheme == "http" || proxy.Scheme == "https") {
			key.addr = "" // one connection serves all
		}
	}
	for {
		c.mu.RLock()
		h := c.hosts[key]
		if h != nil {
			h.enter()
		}
		closed := c.closed
		c.mu.RUnlock()
		if closed {
			return nil, ErrClosed
		}
		if h != nil {
			return h, nil
		}
		if err := c.addHost(key, u, proxy); err != nil {
			return nil, err
		}
	}
}

// withoutPort is a URL's host without the port that its scheme has anyway.
func withoutPort(u *url.URL) string {
	port := ":80"
	if u.Scheme == "https" {
		port = ":443"
	}
	return strings.TrimSuffix(strings.TrimSuffix(u.Host, port), ":")
}

// addHost makes a host, unless there is one.
func (c *Client) addHost(key hostKey, u *url.URL, proxy *url.URL) error {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	h := &host{client: c, addr: net.JoinHostPort(u.Hostname(), port), proxy: proxy, ready: make(chan struct{}), conns: make(map[*conn]struct{})}
	h.name = Host{Scheme: key.scheme}
	if key.addr != "" {
		h.name.Addr = strings.ToLower(h.addr)
	}
	if proxy != nil {
		bare := *proxy
		bare.User = nil
		h.name.Proxy = bare.String()
	}
	if p := c.inner.Protocols; key.scheme == "http" && (p == nil || !p.UnencryptedHTTP2()) {
		h.speaks.Store(uint32(exclusive))
	}
	h.lastUsed.Store(c.now())
	h.budget.init(c.cfg.RetryBudget)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.hosts[key] != nil {
		return nil
	}
	if err := h.newPool(); err != nil {
		return fmt.Errorf("httpclient: %v: %w", h.name, err) // New has tried the same
	}
	close(h.ready)
	c.hosts[key] = h
	c.keeper.start(c)
	return nil
}

// enter is called when a request begins, under the Client's lock.
func (h *host) enter() {
	h.active.Add(1)
	h.requests.Add(1)
}

// leave is called when it has ended, which is now.
func (h *host) leave(now int64) {
	h.lastUsed.Store(now)
	h.active.Add(-1)
}

// all returns the hosts of now.
func (c *Client) all() []*host {
	c.mu.RLock()
	defer c.mu.RUnlock()
	hosts := make([]*host, 0, len(c.hosts))
	for _, h := range c.hosts {
		hosts = append(hosts, h)
	}
	return hosts
}

// heed learns from a Keep-Alive header how long the server waits for the next
// request.
func (cn *conn) heed(header http.Header) {
	v := header["Keep-Alive"]
	if len(v) == 0 {
		return
	}
	for part := range strings.SplitSeq(v[0], ",") {
		name, value, _ := strings.Cut(part, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "timeout") {
			continue
		}
		s, err := strconv.Atoi(strings.Trim(value, " \t\""))
		if err != nil || s < 0 || s > 1<<20 {
			return
		}
		limit := time.Duration(s) * time.Second
		cn.idleFor.Store(int64(max(limit-max(time.Second, limit/10), time.Millisecond)))
		return
	}
}
