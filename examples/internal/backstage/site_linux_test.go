package backstage

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASiteOfAUserWithoutRightsIsTheLoopbackInterfaceAndSaysWhy(t *testing.T) {
	const child = "BACKSTAGE_CHILD"
	if os.Getenv(child) != "" {
		site, err := NewSite(true, 2, func(error) {})
		require.NoError(t, err)
		defer site.Close()
		assert.Nil(t, site.Lab)
		fmt.Printf("over %v: %s\n", site, site.NoLab)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("takes root, to become somebody else")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env, cmd.Dir = append(os.Environ(), child+"=1"), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Regexp(t, `(?m)^over the loopback interface: .*(not permitted|not found)`, string(out))
	assert.NotContains(t, string(out), "unsupported")
}

func TestASiteInALabTakesDialsThere(t *testing.T) {
	site, err := NewSite(true, 2, func(err error) { t.Error(err) })
	require.NoError(t, err)
	defer site.Close()
	if site.Lab == nil {
		t.Skip(site.NoLab)
	}
	d, err := site.Dialer(0)
	require.NoError(t, err)
	defer d.Close()
	for i := range site.Lab.Servers {
		listen, addr, err := site.Listener(i, 8080)
		require.NoError(t, err)
		ln, err := listen()
		require.NoError(t, err)
		c, err := d.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		assert.Contains(t, c.LocalAddr().String(), site.Lab.Client.IPv4().String())
		require.NoError(t, c.Close())
		require.NoError(t, ln.Close())
	}
	assert.NotNil(t, site.Guard())
	assert.Contains(t, site.String(), "3 network namespaces")
}
