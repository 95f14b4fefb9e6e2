package health

import "strings"

// judgeRole knows database servers' answers by their SQLSTATE. Any SQLSTATE is
// an answer, so that nothing below it matters.
func judgeRole(err error) (verdict, bool) {
	if e, ok := err.(interface{ SQLState() string }); ok {
		return judgeSQLState(e.SQLState()), true
	}
	return saysNothing, false
}

func judgeSQLState(state string) verdict {
	switch state {
	case "25006": // read_only_sql_transaction
		return saysRole
	case "25P03", "57P01", "57P02", "57P03", "57P05": // the server hangs up after these
		return saysConn
	}
	if len(state) == 5 && strings.HasPrefix(state, "08") { // connection exceptions
		return saysConn
	}
	return saysNothing
}

// judgeText knows errors by their text. It is only asked about errors that wrap
// nothing and have no better mark.
func judgeText(text string) verdict {
	if number, message, ok := cutMySQL(text); ok {
		return judgeMySQL(number, message)
	}
	if isClosedText(text) {
		return saysClosed
	}
	if v := judgeRedis(text); v != saysNothing {
		return v
	}
	return judgeHTTPText(text)
}

// isClosedText knows the whole texts by which common packages say that a
// connection is no longer there to be used, in errors without a type or name
// that can be reached.
func isClosedText(text string) bool {
	switch text {
	case "tls: protocol is shutdown", // crypto/tls
		"sql: connection is already closed", // database/sql
		"conn closed",                       // github.com/jackc/pgx
		"invalid connection":                // github.com/go-sql-driver/mysql
		return true
	}
	return false
}

// cutMySQL takes "Error 1290 (HY000): message" apart, with or without the
// SQLSTATE.
func cutMySQL(text string) (number, message string, ok bool) {
	rest, ok := strings.CutPrefix(text, "Error ")
	if !ok {
		return "", "", false
	}
	number, message, ok = strings.Cut(rest, ":")
	number, _, _ = strings.Cut(number, " ")
	return number, message, ok
}

func judgeMySQL(number, message string) verdict {
	switch number {
	case "1792", "1836": // read-only transaction; read-only mode
		return saysRole
	case "1290": // some option prevents it; which one is only in the text
		if strings.Contains(message, "read-only") || strings.Contains(message, "read_only") {
			return saysRole
		}
	case "1053", "4031": // shutdown in progress; disconnected for inactivity
		return saysConn
	}
	return saysNothing
}

func judgeRedis(text string) verdict {
	code, message, _ := strings.Cut(text, " ")
	switch code {
	case "READONLY", "MASTERDOWN":
		return saysRole
	case "UNBLOCKED":
		if strings.HasPrefix(message, "force unblock") {
			return saysRole
		}
	}
	return saysNothing
}
