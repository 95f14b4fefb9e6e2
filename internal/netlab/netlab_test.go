package netlab_test

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBadConfigIsRefusedByName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cfg   netlab.Config
		field string
	}{
		"negative servers":          {netlab.Config{Servers: -1}, "Config.Servers is -1"},
		"too many servers":          {netlab.Config{Servers: 101}, "Config.Servers is 101"},
		"negative NAT timeout":      {netlab.Config{NAT: true, NATTimeout: -1}, "Config.NATTimeout is -1ns"},
		"NAT timeout without NAT":   {netlab.Config{NATTimeout: time.Second}, "Config.NAT isn't"},
		"all that is wrong at once": {netlab.Config{Servers: -1, NATTimeout: -1}, "Config.NATTimeout is -1ns"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := netlab.Start(tc.cfg)
			require.ErrorContains(t, err, tc.field)
		})
	}
}

func TestUnsupportedSystemsSaySo(t *testing.T) {
	t.Parallel()
	lab, err := netlab.Start(netlab.Config{})
	if err == nil {
		lab.Close()
		t.Skip("this system can have labs")
	}
	require.ErrorIs(t, err, errors.ErrUnsupported)
	if runtime.GOOS != "linux" {
		assert.ErrorContains(t, err, "need Linux")
	}
}

func TestFaultsThatCannotBePutInPlaceAreReported(t *testing.T) {
	t.Parallel()
	var failures []error
	lab, err := netlab.Start(netlab.Config{Fail: func(err error) { failures = append(failures, err) }})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer lab.Close()
	for name, fault := range map[string]func(){
		"loss over 100":      func() { lab.Loss(101) },
		"negative loss":      func() { lab.Loss(-1) },
		"negative rate":      func() { lab.Rate(-1) },
		"no queue":           func() { lab.Rate(1, 0) },
		"negative delay":     func() { lab.Delay(-1, 0) },
		"router's own drop":  func() { lab.Router.Drop() },
		"router's own state": func() { lab.Router.ForgetNAT() },
		"router's reboot":    func() { lab.Router.Reboot() },
	} {
		fault()
		require.Len(t, failures, 1, name)
		failures = nil
	}
	lab.Close()
	lab.Close() // does nothing
	for name, f := range map[string]func(){
		"drop":    func() { lab.Drop() },
		"forget":  lab.ForgetNAT,
		"reboot":  lab.Server.Reboot,
		"sockets": func() { lab.Client.Sockets() },
		"traffic": func() { lab.Client.Traffic() },
	} {
		f()
		require.Len(t, failures, 1, name)
		assert.ErrorContains(t, failures[0], "the lab is closed", name)
		failures = nil
	}
}
