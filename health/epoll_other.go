//go:build !linux

package health

import (
	"errors"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// epoll is nothing here: a Guard polls.
type epoll struct{}

func newEpoll() (*epoll, error) { return nil, errors.ErrUnsupported }

func (*epoll) add(uintptr, entryID) error                { return errors.ErrUnsupported }
func (*epoll) remove(uintptr)                            {}
func (*epoll) run(deliver func(entryID, sockopt.Events)) {}
func (*epoll) close()                                    {}
