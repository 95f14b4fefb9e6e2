package health

import "syscall"

// judgeSystem knows the numbers of Winsock and those of Windows that sockets
// return. Package syscall's E constants are numbers of its own invention that
// no call returns. It reports true for every errno, also one that says nothing.
func judgeSystem(err error, dialing bool) (verdict, bool) {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return saysNothing, false
	}
	switch errno {
	case 10054, 10053, 10057, 10058, // WSAECONNRESET, WSAECONNABORTED, WSAENOTCONN, WSAESHUTDOWN
		10101,              // WSAEDISCON
		64, 109, 232, 1236, // ERROR_NETNAME_DELETED, ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_CONNECTION_ABORTED
		syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ENOTCONN:
		return saysConn, true
	case 10061, 1225, 1234, // WSAECONNREFUSED, ERROR_CONNECTION_REFUSED, ERROR_PORT_UNREACHABLE
		syscall.ECONNREFUSED:
		if dialing {
			return saysConn, true
		}
		return saysPath, true
	case 10060, 10064, 10065, // WSAETIMEDOUT, WSAEHOSTDOWN, WSAEHOSTUNREACH
		10050, 10051, 10052, // WSAENETDOWN, WSAENETUNREACH, WSAENETRESET (keep-alive found it dead)
		121, 1231, 1232, // ERROR_SEM_TIMEOUT, ERROR_NETWORK_UNREACHABLE, ERROR_HOST_UNREACHABLE
		syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return saysPath, true
	case 10024, 10055, 10048, 10049, // WSAEMFILE, WSAENOBUFS, WSAEADDRINUSE, WSAEADDRNOTAVAIL
		10013, 10047, 10043, // WSAEACCES, WSAEAFNOSUPPORT, WSAEPROTONOSUPPORT
		4, 5, 8, 14, 1450, // ERROR_TOO_MANY_OPEN_FILES, _ACCESS_DENIED, _NOT_ENOUGH_MEMORY, _OUTOFMEMORY, _NO_SYSTEM_RESOURCES
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE:
		return saysLocal, true
	case 995: // ERROR_OPERATION_ABORTED
		return saysCanceled, true
	case 6, 10009, 10038: // ERROR_INVALID_HANDLE, WSAEBADF, WSAENOTSOCK
		return saysClosed, true
	case 2, 10035: // ERROR_FILE_NOT_FOUND, WSAEWOULDBLOCK, of a Unix socket
		if dialing {
			return saysConn, true
		}
	}
	return saysNothing, true
}
