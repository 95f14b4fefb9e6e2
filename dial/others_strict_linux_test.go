package dial

import (
	"testing"
	"time"
)

// The kernel's user timeout counts from the first question about the window, the
// guard's time from the peer's last word.
func TestAWindowThatWasClosedBeforeTheSilenceMakesNoEndOfFile(t *testing.T) {
	t.Parallel()
	path := func(o *others) { o.Drop() }
	together(t, map[string]func(*testing.T){
		"just now":      func(t *testing.T) { bothWait(t, false, 0, Config{}, path) },
		"for a second":  func(t *testing.T) { bothWait(t, false, time.Second, Config{}, path) },
		"for 3 seconds": func(t *testing.T) { bothWait(t, false, 3*time.Second, Config{}, path) },
		"a lost flow": func(t *testing.T) {
			bothWait(t, false, 0, Config{}, func(o *others) { o.ForgetNAT() })
		},
		"just now, TLS":     func(t *testing.T) { bothWait(t, true, 0, Config{}, path) },
		"a second ago, TLS": func(t *testing.T) { bothWait(t, true, time.Second, Config{}, path) },
	})
}
