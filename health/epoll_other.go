//go:build !linux

package health

import (
	"errors"
	"time"

	"github.com/holdfast-go/holdfast/internal/sockopt"
)

// epoll is nothing here: a Guard polls.
type epoll struct{}

func newEpoll() (*epoll, error) { return nil, errors.ErrUnsupported }

func (*epoll) add(uintptr, entryID) error               { return errors.ErrUnsupported }
func (*epoll) remove(uintptr)                           {}
func (*epoll) drain(func(entryID, sockopt.Events)) bool { return false }
func (*epoll) wait(func(entryID, sockopt.Events)) bool  { return false }
func (*epoll) until(born time.Time, t int64)            {}
func (*epoll) wake()                                    {}
func (*epoll) close()                                   {}
