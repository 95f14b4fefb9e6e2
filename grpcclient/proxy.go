package grpcclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// gRPC looks for proxies only where there is no dialer of somebody else's. So
// what it does then is done here: the names of dns targets go to the proxy as they
// are, and the decision, which is about the name, goes with the addresses.

const defaultPort = "443" // gRPC's, for targets and proxies

func proxyOf(f func(*http.Request) (*url.URL, error), address string) (*url.URL, error) {
	u, err := f(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	if err != nil {
		return nil, fmt.Errorf("grpcclient: choosing a proxy for %s: %w", address, err)
	}
	if u != nil && u.Host == "" {
		return nil, fmt.Errorf("grpcclient: the proxy for %s, %q, has no host: use a URL such as http://proxy.internal:3128", address, u.Redacted())
	}
	return u, nil
}

// withPort returns a host with gRPC's default port, unless it has one.
func withPort(host string) string {
	if h, port, err := net.SplitHostPort(host); err == nil {
		if h == "" {
			return net.JoinHostPort("localhost", port)
		}
		return host
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	return net.JoinHostPort(host, defaultPort)
}

// tunnel asks the proxy at the other end of conn for a connection to an address.
// It reads not one byte more than the proxy's answer, so that conn needs no
// wrapper afterwards.
func tunnel(ctx context.Context, conn net.Conn, address string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := connectVia(conn, address, user)
	if !stop() { // the deadline may come at any time
		if err == nil {
			err = errors.New("its answer came too late")
		}
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("grpcclient: the proxy at %v, asked for %s: %w", conn.RemoteAddr(), address, err)
	}
	return nil
}

func connectVia(conn net.Conn, address string, user *url.Userinfo) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: address}, Header: http.Header{"User-Agent": {"grpc-go"}}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	head, err := readHead(conn)
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

const maxHead = 64 << 10

// readHead reads up to the empty line.
func readHead(conn net.Conn) ([]byte, error) {
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\n\r\n")) && !bytes.HasSuffix(head, []byte("\n\n")); {
		if len(head) == maxHead {
			return nil, errors.New("its answer has no end")
		}
		if _, err := conn.Read(b); err != nil {
			return nil, err
		}
		head = append(head, b[0])
	}
	return head, nil
}
