package httpclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nginx is a real one, a child of the test with a directory of its own.
type nginx struct {
	dir     string
	bin     string
	version [3]int
	urls    map[string]string // by the names of nginxProtocols
	roots   *x509.CertPool

	ended  chan struct{} // closed when the process is gone
	master *os.Process
}

// nginxProtocols are the ways to talk to it.
var nginxProtocols = []string{"HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"}

// nginxConf is the whole configuration; the directives of a test go last into
// its http and location blocks.
const nginxConf = `
daemon off;
%[1]s
worker_processes 1;
pid %[2]s/pid;
error_log %[2]s/error.log notice;
events { worker_connections 1000; }
http {
	log_format asked '$request_method $request_uri $status $server_protocol $request_completion';
	access_log %[2]s/access.log asked;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	scgi_temp_path %[2]s/scgi;
	uwsgi_temp_path %[2]s/uwsgi;
	default_type text/plain;
	root %[2]s/www;
	ssl_certificate %[2]s/cert.pem;
	ssl_certificate_key %[2]s/key.pem;
	%[3]s
	server { listen 127.0.0.1:%[4]d; include %[2]s/locations; }
	server { listen 127.0.0.1:%[5]d ssl; include %[2]s/locations; }
	server { listen 127.0.0.1:%[6]d ssl%[7]s; include %[2]s/locations; }
}
`

// newNginx starts nginx with directives for the http block and further ones
// for the servers.
func newNginx(t *testing.T, directives, locations string) *nginx {
	t.Helper()
	n := &nginx{dir: t.TempDir()}
	var err error
	if n.bin, err = exec.LookPath("nginx"); err != nil {
		t.Skip("no nginx: ", err)
	}
	n.askVersion(t)
	n.certify(t)
	require.NoError(t, os.Mkdir(filepath.Join(n.dir, "www"), 0o755))
	if !strings.Contains(locations, "location /do/") {
		locations += "location /do/ { return 200 done; }"
	}
	n.write(t, "locations", "location = / { return 200 root; }\n"+locations)
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // the directory is root's
	}
	ports := freePorts(t, len(nginxProtocols))
	h2 := " http2"
	if n.atLeast(1, 25, 1) {
		h2 = "; http2 on"
	}
	n.write(t, "conf", fmt.Sprintf(nginxConf, user, n.dir, directives, ports[0], ports[1], ports[2], h2))
	n.urls = map[string]string{}
	for i, p := range nginxProtocols {
		scheme := "https"
		if i == 0 {
			scheme = "http"
		}
		n.urls[p] = fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[i])
	}
	n.start(t)
	t.Cleanup(func() { n.stop(t, syscall.SIGTERM) })
	return n
}

func (n *nginx) askVersion(t *testing.T) {
	t.Helper()
	out, err := exec.Command(n.bin, "-v").CombinedOutput()
	if err != nil {
		t.Skipf("nginx can't be run: %v: %s", err, out)
	}
	_, version, _ := strings.Cut(string(out), "nginx/")
	_, err = fmt.Sscanf(version, "%d.%d.%d", &n.version[0], &n.version[1], &n.version[2])
	require.NoError(t, err, "%s", out)
	features, err := exec.Command(n.bin, "-V").CombinedOutput()
	require.NoError(t, err)
	if !strings.Contains(string(features), "http_v2_module") {
		t.Skip("this nginx was built without HTTP/2")
	}
}

func (n *nginx) atLeast(version ...int) bool {
	for i, v := range version {
		if n.version[i] != v {
			return n.version[i] > v
		}
	}
	return true
}

var givenPorts sync.Map

// freePorts returns ports below those that the kernel gives to outgoing
// connections: they must be free again after a restart. No port is given twice,
// since nginx listens only later.
func freePorts(t *testing.T, count int) (ports []int) {
	t.Helper()
	for range 1000 {
		port := 15000 + mathrand.IntN(15000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer ln.Close()
		if ports = append(ports, port); len(ports) == count {
			return ports
		}
	}
	require.FailNow(t, "no free ports")
	return nil
}

func (n *nginx) write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644))
}

// certify makes the server's certificate.
func (n *nginx) certify(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	n.roots = x509.NewCertPool()
	n.roots.AddCert(cert)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	n.write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	n.write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

// start starts the process, and returns when it listens.
func (n *nginx) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(n.bin, "-p", n.dir, "-c", filepath.Join(n.dir, "conf"), "-e", filepath.Join(n.dir, "error.log"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// The signal comes when the thread ends that has started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	require.NoError(t, <-started)
	n.master, n.ended = cmd.Process, ended
	for _, url := range n.urls {
		n.eventually(t, "nginx listens", func() bool {
			c, err := net.Dial("tcp", url[strings.Index(url, "//")+2:])
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
}

// stop ends the process and waits for it: fast with SIGTERM, gracefully with
// SIGQUIT.
func (n *nginx) stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	_ = n.master.Signal(sig)
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	select {
	case <-n.ended:
	case <-limit.C:
		_ = syscall.Kill(-n.master.Pid, syscall.SIGKILL)
		<-n.ended
		t.Errorf("nginx didn't end after %v", sig)
	}
}

// reload has nginx read its configuration again, and returns when a new worker
// has taken over.
func (n *nginx) reload(t *testing.T) {
	t.Helper()
	workers := func() int { return strings.Count(n.read(t, "error.log"), "start worker process ") }
	before := workers()
	require.NoError(t, n.master.Signal(syscall.SIGHUP))
	n.eventually(t, "a new worker", func() bool { return workers() > before })
}

func (n *nginx) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, name))
	require.NoError(t, err)
	return string(b)
}

func (n *nginx) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			require.FailNow(t, "not in time: "+what, "%s", n.read(t, "error.log"))
		}
		pause(t.Context(), 5*time.Millisecond)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// client returns a Client for nginx that is closed with the test.
func (n *nginx) client(t *testing.T, protocol string, cfg Config) *Client {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.TLSClientConfig = &tls.Config{RootCAs: n.roots}
	cfg.Transport = transport
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, c.Close(ctx), protocol)
	})
	return c
}

// executed returns how often each request was, by method and URI. nginx logs a
// request when it has ended, and ends when its connections have.
func (n *nginx) executed(t *testing.T, c *Client) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.Close(ctx))
	n.stop(t, syscall.SIGQUIT)
	times := map[string]int{}
	for line := range strings.Lines(n.read(t, "access.log")) {
		method, rest, _ := strings.Cut(line, " ")
		uri, _, _ := strings.Cut(rest, " ")
		times[method+" "+uri]++
	}
	return times
}

// requireNoneTwice requires that no POST was executed more than once.
func (n *nginx) requireNoneTwice(t *testing.T, c *Client) map[string]int {
	t.Helper()
	executed := n.executed(t, c)
	for what, times := range executed {
		if strings.HasPrefix(what, "POST") {
			require.LessOrEqual(t, times, 1, what)
		}
	}
	return executed
}

// requireOnceEach requires that those POSTs that succeeded were executed, and
// none twice.
func (n *nginx) requireOnceEach(t *testing.T, c *Client, posts *tally) {
	t.Helper()
	executed := n.requireNoneTwice(t, c)
	posts.mu.Lock()
	defer posts.mu.Unlock()
	for uri, err := range posts.ended {
		if err == nil {
			require.Equal(t, 1, executed["POST "+uri], uri)
		}
	}
}
