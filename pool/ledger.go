package pool

import (
	"context"

	"github.com/jackc/puddle/v2"
)

// ledger holds one puddle resource for every connection from before its dial
// until after its close, which makes MaxConns hard. Its resources are never
// idle in puddle's eyes: who gets which connection is decided in front of it.
// This file alone knows puddle, and only Acquire, Destroy, Hijack and Close.
type ledger[T any] struct {
	book *puddle.Pool[*entry[T]]
}

func newLedger[T any](maxConns int, open func(context.Context) (*entry[T], error), end func(*entry[T])) (ledger[T], error) {
	book, err := puddle.NewPool(&puddle.Config[*entry[T]]{
		Constructor: open,
		Destructor:  end,
		MaxSize:     int32(maxConns),
	})
	return ledger[T]{book}, err
}

// open books a slot and runs the constructor in it. Its context is never
// cancelled: an abandoned Acquire would leave a resource that nobody holds.
// The constructor's own context ends with close.
func (l ledger[T]) open() (*entry[T], error) {
	res, err := l.book.Acquire(context.Background())
	if err != nil {
		return nil, err
	}
	e := res.Value()
	e.slot = res
	return e, nil
}

// destroy runs the destructor on another goroutine and frees the slot after it.
func (l ledger[T]) destroy(e *entry[T]) { e.slot.Destroy() }

// hijack frees the slot at once.
func (l ledger[T]) hijack(e *entry[T]) { e.slot.Hijack() }

// close cancels the contexts of running constructors and waits until the last
// slot is free.
func (l ledger[T]) close() { l.book.Close() }
