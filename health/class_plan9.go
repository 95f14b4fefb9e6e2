package health

import (
	"strings"
	"syscall"
)

// judgeSystem knows Plan 9's errors, which are texts.
func judgeSystem(err error, dialing bool) (verdict, bool) {
	e, ok := err.(syscall.ErrorString)
	if !ok {
		return saysNothing, false
	}
	text := string(e)
	switch {
	case strings.Contains(text, "connection refused"):
		if dialing {
			return saysConn, true
		}
		return saysPath, true
	case strings.Contains(text, "hungup"), strings.Contains(text, "connection reset"):
		return saysConn, true
	case strings.Contains(text, "timed out"), strings.Contains(text, "no route"):
		return saysPath, true
	case strings.Contains(text, "permission denied"), strings.Contains(text, "no free"):
		return saysLocal, true
	}
	return saysNothing, true
}
