//go:build !linux

package backstage

import (
	"errors"

	"github.com/holdfast-go/holdfast/dial"
	"github.com/holdfast-go/holdfast/internal/netlab"
)

// dialsFrom is never called where there are no namespaces.
func dialsFrom(*netlab.Host) (*dial.Trace, func(), error) {
	return nil, nil, errors.ErrUnsupported
}
