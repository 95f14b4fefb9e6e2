package health

import (
	"reflect"
	"strings"
)

// refusedStream is HTTP/2's REFUSED_STREAM: nothing was done for the request.
const refusedStream = 7

// http2Error is an error of an HTTP/2 connection or stream. There are two
// copies of their types, unexported in net/http and exported in
// golang.org/x/net/http2, which this package does not import. Their names and
// fields, which are x/net's API, tell them.
type http2Error struct {
	kind  string // ConnectionError, StreamError or GoAwayError
	code  uint64
	cause string
}

func asHTTP2(err error) (e http2Error, ok bool) {
	v := reflect.ValueOf(err)
	t := v.Type()
	if t.PkgPath() != "net/http" && !strings.HasSuffix(t.PkgPath(), "/http2") {
		return e, false
	}
	e.kind = strings.TrimPrefix(t.Name(), "http2")
	switch e.kind {
	case "ConnectionError":
		return e, t.Kind() == reflect.Uint32
	case "GoAwayError":
		return e, t.Kind() == reflect.Struct && v.FieldByName("LastStreamID").IsValid()
	case "StreamError":
		if t.Kind() != reflect.Struct {
			return e, false
		}
		code := v.FieldByName("Code")
		if !code.IsValid() || !code.CanUint() || !v.FieldByName("StreamID").IsValid() {
			return e, false
		}
		e.code = code.Uint()
		if c := v.FieldByName("Cause"); c.IsValid() && c.CanInterface() {
			if cause, ok := c.Interface().(error); ok {
				e.cause = textOf(cause)
			}
		}
		return e, true
	}
	return e, false
}

// judgeHTTP2 knows the errors of both HTTP/2 clients that have types.
func judgeHTTP2(err error) (verdict, bool) {
	e, ok := asHTTP2(err)
	if !ok {
		return saysNothing, false
	}
	if e.kind == "StreamError" {
		return saysNothing, true
	}
	return saysConn, true
}

// Texts of errors of net/http and x/net/http2 that have neither a type nor a
// name that can be reached.
const (
	textIdleClosed     = "http: server closed idle connection"
	textPingLost       = "http2: client connection lost"
	textNotEstablished = "http2: client conn could not be established"
	textUnusable       = "http2: client conn not usable"
	textGotGoAway      = "http2: Transport received Server's graceful shutdown GOAWAY"
	textConnClosed     = "http2: client conn is closed"
	textForceClosed    = "http2: client connection force closed via ClientConn.Close"
	textGoAwayPrefix   = "http2: Transport received GOAWAY from server"
	textFromPeer       = "received from peer"
)

func judgeHTTPText(text string) verdict {
	switch text {
	case textPingLost:
		return saysPath
	case textForceClosed, textConnClosed:
		return saysClosed
	case textIdleClosed, textNotEstablished, textUnusable, textGotGoAway:
		return saysConn
	}
	if strings.HasPrefix(text, textGoAwayPrefix) {
		return saysConn
	}
	return saysNothing
}

// unprocessedByHTTP2 reports whether err proves that the server did nothing for
// the request: a stream that it refused, or whose number is above the last one
// that its GOAWAY says it will look at. GoAwayError is no proof, because it is
// what the streams below that number get.
func unprocessedByHTTP2(err error) bool {
	if e, ok := asHTTP2(err); ok {
		return e.kind == "StreamError" && e.code == refusedStream && e.cause == textFromPeer
	}
	text := textOf(err)
	return text == textGotGoAway || text == textUnusable || text == textNotEstablished
}

// unwrittenByHTTP reports whether err is net/http's note that it wrote nothing of
// the request to the connection. http.Transport removes it, http.ClientConn
// doesn't.
func unwrittenByHTTP(err error) bool {
	t := reflect.TypeOf(err)
	return t.PkgPath() == "net/http" && t.Name() == "nothingWrittenError"
}
