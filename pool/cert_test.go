package pool_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/pool"
	"github.com/stretchr/testify/require"
)

func testCert(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestUnreadSessionTicketsAreNotADeath uses OpenSSL's server because, unlike
// Go's, it sends its TLS 1.3 tickets after the handshake: a healthy idle
// connection has bytes to read, and the FIN hides behind them.
func TestUnreadSessionTicketsAreNotADeath(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs the openssl command: ", err)
	}
	cert := testCert(t)
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "server.pem")
	block := func(kind string, b []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
	}
	require.NoError(t, os.WriteFile(file, append(block("CERTIFICATE", cert.Certificate[0]), block("PRIVATE KEY", der)...), 0o600))
	cmd := exec.Command(openssl, "s_server", "-tls1_3", "-accept", "127.0.0.1:0", "-cert", file, "-key", file, "-rev")
	stdin, err := cmd.StdinPipe() // it ends with its input
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()
	defer cmd.Process.Kill()
	addr, told := "", false
	for says := bufio.NewScanner(stdout); !told && says.Scan(); {
		addr, told = strings.CutPrefix(says.Text(), "ACCEPT ")
	}
	require.True(t, told, "it doesn't say where it listens")

	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	p := newNetPool(t, pool.Config[net.Conn]{MaxConns: 1, Open: func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := p.Acquire(ctx)
	require.NoError(t, err)
	v := c.Value()
	c.Release()
	for range 20 {
		time.Sleep(2 * time.Millisecond) // a peek each time
		c := acquire(t, p)
		require.Same(t, v, c.Value(), "a healthy connection was discarded")
		c.Release()
	}
	require.NoError(t, p.Do(ctx, func(_ context.Context, c net.Conn) error {
		if _, err := io.WriteString(c, "abc\n"); err != nil {
			return err
		}
		b := make([]byte, 4)
		_, err := io.ReadFull(c, b)
		require.Equal(t, "cba\n", string(b))
		return err
	}))
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { return p.Stat().Idle == 0 }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, 1, p.Stat().Closed(pool.ReasonDead))
}
