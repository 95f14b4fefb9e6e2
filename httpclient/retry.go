package httpclient

import (
	"net/http"
	"sync/atomic"

	"github.com/holdfast-go/holdfast/health"
)

// maxFree is how often a request may meet the orderly end of a connection, beyond
// MaxAttempts: a busy HTTP/2 connection that the server ends after so many requests
// leaves out all that were on their way, and the next one may do so, too.
const maxFree = 20

// repeats reports whether a request is to be sent again after its nth attempt. A
// proof is one that the server has not acted on that. free counts those attempts
// that are held against nobody.
func (h *host) repeats(out *outgoing, a attempt, proof bool, n int, free *int) bool {
	if !a.sent || h.client.cfg.MaxAttempts == 1 || out.req.Context().Err() != nil || !out.again() {
		return false
	}
	if !proof && !(idempotent(out.req) && brokeOff(a.err)) {
		return false
	}
	// A server that ends a connection it has served well has had no work with
	// this request, and does that as often as it likes.
	if proof && a.reused && *free < maxFree && health.Classify(a.err) == health.Conn {
		*free++
		return true
	}
	return n-*free < h.client.cfg.MaxAttempts && h.budget.withdraw()
}

// idempotent reports whether a request may be executed more than once.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	for _, key := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if _, ok := req.Header[key]; ok {
			return true
		}
	}
	return false
}

// brokeOff reports whether it was the connection that failed, and not the server
// or the caller who has had enough.
func brokeOff(err error) bool {
	class := health.Classify(err)
	return class == health.Conn || class == health.Path
}

// budget is a store of repetitions, in thousandths.
type budget struct {
	part  int64 // put in for each request
	store atomic.Int64
}

const (
	budgetUnit = 1000
	budgetMost = 100 * budgetUnit
)

func (b *budget) init(part float64) {
	b.part = int64(part * budgetUnit)
	b.store.Store(budgetMost)
}

// deposit is called for each request.
func (b *budget) deposit() {
	if b.part > 0 && b.store.Load() < budgetMost {
		b.store.Add(b.part)
	}
}

// withdraw takes out one repetition, if there is one.
func (b *budget) withdraw() bool {
	for {
		have := b.store.Load()
		if have < budgetUnit {
			return false
		}
		if b.store.CompareAndSwap(have, have-budgetUnit) {
			return true
		}
	}
}
