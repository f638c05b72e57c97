package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"lockstep/internal/quota"
)

// connectionsMost bounds the TCP connections of one address: each holds a goroutine and a buffer. Clients use TCP for the
// few answers that do not fit a datagram.
const connectionsMost = 256

// Sockets are where names are asked for: by UDP and TCP at each address.
type Sockets struct {
	// Addresses are those that were asked for, with their real ports.
	Addresses []netip.AddrPort
	packets   []net.PacketConn
	streams   []net.Listener
}

// Listen opens the sockets. The addresses need not exist yet; port 0 is a free one.
func Listen(ctx context.Context, at []netip.AddrPort) (*Sockets, error) {
	s := &Sockets{}
	if err := s.listen(ctx, at); err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return s, nil
}

func (s *Sockets) listen(ctx context.Context, at []netip.AddrPort) error {
	config := net.ListenConfig{Control: freebind}
	for _, a := range at {
		packets, err := config.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return err
		}
		s.packets = append(s.packets, packets)
		a = packets.LocalAddr().(*net.UDPAddr).AddrPort()
		streams, err := config.Listen(ctx, "tcp", a.String())
		if err != nil {
			return err
		}
		s.streams = append(s.streams, streams)
		s.Addresses = append(s.Addresses, a)
	}
	return nil
}

// Close closes this process's descriptors; those that were handed over go on.
func (s *Sockets) Close() {
	for _, p := range s.packets {
		p.Close()
	}
	for _, l := range s.streams {
		l.Close()
	}
}

// files are descriptors of the sockets to be handed over, two an address, in their order. The caller closes them.
func (s *Sockets) files() ([]*os.File, error) {
	var out []*os.File
	for i := range s.Addresses {
		for _, socket := range []any{s.packets[i], s.streams[i]} {
			f, err := socket.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				closeAll(out)
				return nil, err
			}
			out = append(out, f)
		}
	}
	return out, nil
}

// takeSockets makes sockets of what files returned in another process, and closes the files.
func takeSockets(at []netip.AddrPort, files []*os.File) (*Sockets, error) {
	defer closeAll(files)
	if len(files) != 2*len(at) {
		return nil, fmt.Errorf("%d descriptors came for %d addresses", len(files), len(at))
	}
	s := &Sockets{Addresses: at}
	for i := range at {
		packets, err := net.FilePacketConn(files[2*i])
		if err != nil {
			s.Close()
			return nil, err
		}
		s.packets = append(s.packets, packets)
		streams, err := net.FileListener(files[2*i+1])
		if err != nil {
			s.Close()
			return nil, err
		}
		s.streams = append(s.streams, streams)
	}
	return s, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// freebind lets a socket be bound to an address that comes later: the service link may be made after the socket, and made
// again.
func freebind(_, _ string, conn syscall.RawConn) error {
	var err error
	if control := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}); control != nil {
		return control
	}
	return err
}

// bounded is a listener with a limit of open connections, and one of each client's; more are closed at once.
type bounded struct {
	net.Listener
	once    sync.Once
	slots   chan struct{}
	clients *quota.Gate
	ended   chan struct{} // closed when it accepts no more, and what it accepted has its slot
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				b.once.Do(func() { close(b.ended) })
			}
			return nil, err
		}
		leave := b.clients.Enter(quota.Peer(conn.RemoteAddr().String()))
		if leave == nil {
			conn.Close()
			continue
		}
		select {
		case b.slots <- struct{}{}:
			return &releasing{Conn: conn, slots: b.slots, leave: leave}, nil
		default:
			leave()
			conn.Close()
		}
	}
}

// busy says whether connections are open.
func (b *bounded) busy() bool { return len(b.slots) > 0 }

// releasing is a connection that gives its slot back once.
type releasing struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
	leave func()
}

func (r *releasing) Close() error {
	r.once.Do(func() {
		<-r.slots
		r.leave()
	})
	return r.Conn.Close()
}
