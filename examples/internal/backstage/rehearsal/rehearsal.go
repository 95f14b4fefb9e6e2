// Package rehearsal helps to test the programs of this module.
package rehearsal

import (
	"strings"
	"sync"
)

// Output keeps what is written to it, and calls Seen whenever that contains Want.
// It may be used concurrently.
type Output struct {
	Want string
	Seen func()

	mu  sync.Mutex
	buf strings.Builder
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.buf.Write(p)
	o.mu.Unlock()
	if strings.Contains(string(p), o.Want) {
		o.Seen()
	}
	return len(p), nil
}

// String returns all that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
