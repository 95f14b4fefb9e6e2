package health

import "github.com/holdfast-go/holdfast/internal/sockopt"

const pollTellsEnd = false

// sniff says that there is nobody to ask.
func sniff(fd uintptr, layered bool) (err error, dead bool) {
	_, err = sockopt.Peek(fd)
	return err, false
}

func judgeEvents(fd uintptr, e sockopt.Events) error { return nil }
