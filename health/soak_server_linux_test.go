package health

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/netlab"
)

const (
	soakPort    = 7000
	soakTLSPort = 7001
	soakBuffer  = 128 << 10 // of a server's receive buffers, so that a pause closes windows
)

// order is what a client of the soak wants a server to do.
type order struct {
	op   byte // echo, upload, download or reset, by their first letters
	size uint32
	wait time.Duration // before reading an upload
}

func (o order) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{o.op}, o.size)
	return binary.BigEndian.AppendUint32(b, uint32(o.wait.Milliseconds()))
}

const orderSize = 9

func decodeOrder(b []byte) order {
	return order{b[0], binary.BigEndian.Uint32(b[1:]), time.Duration(binary.BigEndian.Uint32(b[5:])) * time.Millisecond}
}

func TestSoakServerProcess(t *testing.T) {
	netlab.HelperMain(t, func([]string) int {
		if err := serveSoak(); err != nil {
			fmt.Fprintln(os.Stderr, "soak server:", err)
			return 1
		}
		return 0
	})
}

// serveSoak serves until its standard input ends.
func serveSoak() error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	for _, port := range []int{soakPort, soakTLSPort} {
		ln, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			return err
		}
		rc, err := ln.SyscallConn()
		if err != nil {
			return err
		}
		if err := setReadBuffer(rc, soakBuffer); err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.AcceptTCP()
				if err != nil {
					return
				}
				var app net.Conn = c
				if port == soakTLSPort {
					app = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
				}
				go obey(app, c)
			}
		}()
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// obey carries out orders that come over c, which is tcp or above it.
func obey(c net.Conn, tcp *net.TCPConn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 4096)
	head := make([]byte, orderSize)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		o := decodeOrder(head)
		var err error
		switch o.op {
		case 'e':
			b := make([]byte, o.size)
			if _, err = io.ReadFull(in, b); err == nil {
				_, err = c.Write(b)
			}
		case 'u':
			time.Sleep(o.wait)
			if _, err = io.CopyN(io.Discard, in, int64(o.size)); err == nil {
				_, err = c.Write([]byte{'k'})
			}
		case 'd':
			_, err = c.Write(make([]byte, o.size))
		case 'r':
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
			return
		default:
			err = errors.New("no such order")
		}
		if err != nil {
			return
		}
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
