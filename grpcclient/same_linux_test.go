package grpcclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// sight is what servers saw of their clients: :authority, and the name in the
// ClientHello.
type sight struct {
	mu    sync.Mutex
	names []string
}

func (s *sight) note(what, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, what+" "+name)
}

func (s *sight) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.names
	s.names = nil
	return names
}

func (s *sight) authority(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.note("authority", strings.Join(md[":authority"], ","))
	return h(ctx, req)
}

func (s *sight) hello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	s.note("hello", h.ServerName)
	return nil, nil
}

func TestServersSeeTheSameNamesAsFromAPlainClient(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(tcp.Addr().String())
	require.NoError(t, err)
	six, err := net.Listen("tcp", "[::1]:0")
	require.NoError(t, err)
	_, port6, err := net.SplitHostPort(six.Addr().String())
	require.NoError(t, err)
	path := t.TempDir() + "/s"
	unix, err := net.Listen("unix", path)
	require.NoError(t, err)
	abstract, err := net.Listen("unix", "@holdfast-same-"+port)
	require.NoError(t, err)

	var s sight
	cert, _ := certified()
	secure := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, GetConfigForClient: s.hello})
	for _, ln := range []net.Listener{tcp, six, unix, abstract} {
		serve(t, ln, &tester{}, grpc.Creds(secure), grpc.UnaryInterceptor(s.authority))
	}
	named := func() grpc.DialOption {
		r := manual.NewBuilderWithScheme("named")
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: tcp.Addr().String(), ServerName: "of.the.address"}}})
		return grpc.WithResolvers(r)
	}
	for target, more := range map[string]func() grpc.DialOption{
		"localhost:" + port:                   nil,
		":" + port:                            nil,
		"dns:///localhost:" + port:            nil,
		"dns:///127.0.0.1:" + port:            nil,
		"dns://127.0.0.1/127.0.0.1:" + port:   nil,
		"passthrough:///localhost:" + port:    nil,
		"passthrough:///:" + port:             nil,
		"[::1]:" + port6:                      nil,
		"dns:///[::1]:" + port6:               nil,
		"passthrough:///[::1%25lo]:" + port6:  nil,
		"unix:" + path:                        nil,
		"unix://" + path:                      nil,
		"unix-abstract:holdfast-same-" + port: nil,
		"named:///some.name":                  named,
		"named://authority/some.name:1":       named,
		"localhost:" + port + " ":             nil,
		"dns:///localhost:" + port + "#given": func() grpc.DialOption { return grpc.WithAuthority("given.name") },
	} {
		target, _, _ = strings.Cut(target, "#")
		saw := func(cc *grpc.ClientConn) (names []string, err error) {
			_, err = call(t.Context(), cc)
			return s.take(), err
		}
		opts := func() []grpc.DialOption {
			opts := []grpc.DialOption{
				grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})),
				grpc.WithDisableServiceConfig(), // which would be looked up in the DNS
			}
			if more != nil {
				opts = append(opts, more())
			}
			return opts
		}
		want, wantErr := saw(plainClient(t, target, append(opts(), grpc.WithNoProxy())...))
		got, err := saw(newClient(t, target, Config{}, opts()...))
		assert.Equal(t, want, got, target)
		assert.Equal(t, status.Code(wantErr), status.Code(err), "%s: %v, %v", target, wantErr, err)
		if strings.HasSuffix(target, " ") {
			assert.Empty(t, want)
		} else {
			assert.Len(t, want, 2, "%s: %v", target, wantErr)
		}
	}
}

const proxyChild = "HOLDFAST_GRPCCLIENT_TARGETS"

// It runs in a process of its own, since net/http reads the environment once.
func TestHelperOfTheEnvironmentsProxy(t *testing.T) {
	args := strings.Fields(os.Getenv(proxyChild))
	if len(args) == 0 {
		t.Skip("it is part of another test")
	}
	for _, target := range args[1:] {
		var cc *grpc.ClientConn
		if args[0] == "plain" {
			cc = plainClient(t, target, grpc.WithDisableServiceConfig())
		} else {
			cc = newClient(t, target, Config{}, grpc.WithDisableServiceConfig())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if strings.Contains(target, "unknown") {
			ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond) // who looks it up may take his time
		}
		who, err := call(ctx, cc)
		cancel()
		fmt.Println("result:", target, who, err == nil)
		t.Log(err)
	}
}

func TestTheEnvironmentsProxyIsUsedAsByAPlainClient(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	serve(t, ln, &tester{name: "server"})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	const name, unknown = "known-to-the-proxy.invalid", "unknown.invalid"
	direct := []string{"127.0.0.1:" + port, "dns:///localhost:" + port, "passthrough:///localhost:" + port}
	through := []string{
		name, name + ":8443", "dns:///" + name + ":8443", "dns:///" + name, "dns://127.0.0.1:1/" + name,
		"passthrough:///" + name + ":8443", "dns:///[2001:db8::1]:8443", "dns:///192.0.2.1",
	}
	excluded := []string{unknown, "dns:///" + unknown + ":8443", "passthrough:///" + unknown + ":8443"}
	for name, of := range map[string]struct {
		proxy   string   // where it listens
		env     []string // with the place of the proxy's address
		targets []string
		asked   int // for how many different addresses
	}{
		"with a password":      {"127.0.0.1:0", []string{"HTTPS_PROXY=http://me:se%20cret@ADDRESS"}, append(direct, through...), 4},
		"in lower case":        {"127.0.0.1:0", []string{"https_proxy=http://me@ADDRESS"}, through, 4},
		"without a scheme, v6": {"[::1]:0", []string{"HTTPS_PROXY=ADDRESS"}, through, 4},
		"with exceptions":      {"127.0.0.1:0", []string{"HTTPS_PROXY=http://ADDRESS", "NO_PROXY=192.0.2.7,.other.invalid"}, through, 4},
		"excluded":             {"127.0.0.1:0", []string{"HTTPS_PROXY=http://ADDRESS", "NO_PROXY=" + unknown}, append(excluded, name), 1},
		"excluded by suffix":   {"127.0.0.1:0", []string{"HTTPS_PROXY=http://ADDRESS", "no_proxy=.invalid"}, excluded, 0},
		"none":                 {"127.0.0.1:0", []string{"HTTPS_PROXY=http://ADDRESS", "NO_PROXY=*"}, append(direct, excluded...), 0},
		"not for https":        {"127.0.0.1:0", []string{"HTTP_PROXY=http://ADDRESS"}, excluded, 0},
		"by https":             {"127.0.0.1:0", []string{"HTTPS_PROXY=https://ADDRESS"}, through[:2], 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			type result struct {
				results, asked []string
			}
			run := func(mode string) (r result) {
				at, err := net.Listen("tcp", of.proxy)
				require.NoError(t, err)
				p := runProxy(t, at, ln.Addr().String(), "")
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperOfTheEnvironmentsProxy$", "-test.v", "-test.timeout=1m")
				for _, e := range os.Environ() {
					if n, _, _ := strings.Cut(strings.ToLower(e), "="); !strings.HasSuffix(n, "_proxy") {
						cmd.Env = append(cmd.Env, e)
					}
				}
				for _, e := range of.env {
					cmd.Env = append(cmd.Env, strings.ReplaceAll(e, "ADDRESS", at.Addr().String()))
				}
				cmd.Env = append(cmd.Env, proxyChild+"="+mode+" "+strings.Join(of.targets, " "))
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				for line := range strings.Lines(string(out)) {
					if strings.HasPrefix(line, "result: ") {
						r.results = append(r.results, strings.TrimSpace(line))
					}
				}
				require.Len(t, r.results, len(of.targets), "%s", out)
				p.mu.Lock()
				defer p.mu.Unlock()
				asked := map[string]bool{}
				for _, q := range p.asked {
					asked[q.Method+" "+q.RequestURI+" "+q.Host+" "+q.Header.Get("Proxy-Authorization")] = true
				}
				r.asked = slices.Sorted(maps.Keys(asked))
				return r
			}
			want, got := run("plain"), run("ours")
			assert.Equal(t, want, got)
			assert.Len(t, got.asked, of.asked, "%v", got)
		})
	}
}
