package ingress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// The PROXY protocol (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
const (
	proxyTime = 5 * time.Second // a header is sent with the connection
	maxProxy1 = 107             // a header of version 1, in all
	maxProxy2 = 4096            // what follows the first 16 bytes of version 2: addresses, and more that is passed over
	magic2    = "\r\n\r\n\x00\r\nQUIT\n"
)

// proxied takes connections from some networks to begin with a header of the PROXY protocol; those from others begin with what they are.
type proxied struct {
	net.Listener
	from []netip.Prefix
}

func (p proxied) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err != nil || !within(p.from, at.Addr().Unmap()) {
		return c, nil
	}
	return &announced{Conn: c, buffer: bufio.NewReader(c)}, nil
}

// announced reads the header when it is first asked for what it needs, which is not by who accepts.
type announced struct {
	net.Conn
	buffer *bufio.Reader
	once   sync.Once
	from   net.Addr // nil: as the connection has it
	err    error
}

func (a *announced) header() {
	a.once.Do(func() {
		if a.err = a.SetReadDeadline(time.Now().Add(proxyTime)); a.err != nil {
			return
		}
		var from netip.AddrPort
		if from, a.err = readProxy(a.buffer); a.err == nil && from.IsValid() {
			a.from = net.TCPAddrFromAddrPort(from)
		}
		if a.err == nil {
			a.err = a.SetReadDeadline(time.Time{})
		}
	})
}

func (a *announced) Read(p []byte) (int, error) {
	a.header()
	if a.err != nil {
		return 0, a.err
	}
	return a.buffer.Read(p)
}

func (a *announced) RemoteAddr() net.Addr {
	if a.header(); a.from != nil {
		return a.from
	}
	return a.Conn.RemoteAddr()
}

// readProxy reads a header of either version. Not valid: the proxy speaks for itself.
func readProxy(r *bufio.Reader) (from netip.AddrPort, err error) {
	start, err := r.Peek(len(magic2))
	switch {
	case err != nil:
		return from, err
	case string(start) == magic2:
		return readProxy2(r)
	case bytes.HasPrefix(start, []byte("PROXY ")):
		return readProxy1(r)
	}
	return from, errors.New("the connection does not begin with a header of the PROXY protocol")
}

func readProxy1(r *bufio.Reader) (from netip.AddrPort, err error) {
	var line []byte
	for len(line) < 2 || string(line[len(line)-2:]) != "\r\n" {
		b, err := r.ReadByte()
		if err != nil {
			return from, err
		}
		if line = append(line, b); len(line) > maxProxy1 {
			return from, errors.New("the header of the PROXY protocol is too long")
		}
	}
	fields := strings.Fields(string(line))
	if len(fields) >= 2 && fields[1] == "UNKNOWN" {
		return from, nil
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return from, errors.New("the header of the PROXY protocol is none")
	}
	return netip.ParseAddrPort(net.JoinHostPort(fields[2], fields[4]))
}

func readProxy2(r *bufio.Reader) (from netip.AddrPort, err error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return from, err
	}
	n := binary.BigEndian.Uint16(head[14:])
	if head[12]>>4 != 2 || n > maxProxy2 {
		return from, fmt.Errorf("the header of the PROXY protocol is none: version %d, %d bytes", head[12]>>4, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return from, err
	}
	local, family := head[12]&15 == 0, head[13]
	switch {
	case local:
	case family == 0x11 && n >= 12:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:])), nil
	case family == 0x21 && n >= 36:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:])), nil
	}
	return from, nil
}
