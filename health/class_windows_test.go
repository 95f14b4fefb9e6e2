package health

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWinsockNumbersAreClassified(t *testing.T) {
	for errno, class := range map[syscall.Errno]Class{
		10054: Conn, 10053: Conn, 10058: Conn, 64: Conn, 1236: Conn,
		10061: Path, 10060: Path, 10065: Path, 10051: Path, 10050: Path, 10052: Path, 121: Path,
		10024: Local, 10055: Local, 10049: Local, 10048: Local, 10013: Local,
		995: Canceled, 10035: Unknown,
	} {
		assert.Equal(t, class, Classify(opError("wsarecv", errno)), "%d", errno)
	}
	assert.Equal(t, Conn, Classify(opError("dial", syscall.Errno(10061))))
}
