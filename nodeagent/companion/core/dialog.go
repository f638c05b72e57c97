package core

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Dialog is what a companion does with the requests of one connection, each a Q that is answered by an A. Its functions are
// called by several goroutines, those of one connection one after the other.
type Dialog[Q, A any] struct {
	// Most bounds a request in bytes.
	Most int
	// Step reads what a request asks for, and the first descriptor that "descriptors" is to send.
	Step func(*Q) (op string, from int)
	// Answer carries a request out; false: there is no answer to give, since a successor takes over.
	Answer func(*Q) (A, bool)
	// Offer stops what is to be handed over and returns its descriptors; nil where it cannot, and the answer says why.
	Offer func() ([]*os.File, A)
	// Over ends an offer: taken, or the successor went away before it had everything.
	Over func(offered []*os.File, taken bool)
}

// Converse answers one connection's requests in their order, until it ends or a successor has taken over. A successor asks
// for "handover", then for "descriptors" as long as some are missing, then for "release".
func Converse[Q, A any](conn *net.UnixConn, d Dialog[Q, A]) {
	in := bufio.NewReader(conn)
	var offered []*os.File
	defer func() {
		if offered != nil {
			d.Over(offered, false)
		}
	}()
	for {
		var q Q
		if ReadMessage(in, &q, d.Most) != nil {
			return
		}
		op, from := d.Step(&q)
		switch {
		case op == "handover" && offered == nil:
			var a A
			if offered, a = d.Offer(); WriteMessage(conn, &a) != nil {
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(Patience))
		case op == "descriptors" && offered != nil:
			if Send(conn, offered, from) != nil {
				return
			}
		case op == "release" && offered != nil:
			files := offered
			offered = nil
			d.Over(files, true)
			return
		default:
			a, ok := d.Answer(&q)
			if !ok || WriteMessage(conn, &a) != nil {
				return
			}
		}
	}
}

// Succession is the other half: how a successor takes over, with questions of type Q and answers of type A.
type Succession[Q, A any] struct {
	// Most bounds an answer in bytes.
	Most int
	// Ask makes the question of a step, and for "descriptors" of the first that is to come.
	Ask func(op string, from int) *Q
	// Handed is how many descriptors an answer announces, the listening socket's first; none where it refuses, and why.
	Handed func(*A) (descriptors int, refusal string)
	// Take takes what was handed over, without the listening socket.
	Take func(a *A, rest []*os.File) error
}

// TakeOver takes over from the companion behind a socket, and returns the listener at it; nil when nobody is there.
func TakeOver[Q, A any](socket string, s Succession[Q, A]) (*net.UnixListener, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, nil
	}
	defer conn.Close()
	l, err := succeed(conn, s)
	if err != nil {
		return nil, fmt.Errorf("cannot take over from the process at %s: %w", socket, err)
	}
	return l, nil
}

func succeed[Q, A any](conn *net.UnixConn, s Succession[Q, A]) (*net.UnixListener, error) {
	_ = conn.SetReadDeadline(time.Now().Add(Patience))
	if err := WriteMessage(conn, s.Ask("handover", 0)); err != nil {
		return nil, err
	}
	// Nothing else is sent before it is asked for, so the reader takes no byte that descriptors come with.
	var a A
	if err := ReadMessage(bufio.NewReader(conn), &a, s.Most); err != nil {
		return nil, err
	}
	descriptors, refusal := s.Handed(&a)
	if descriptors == 0 {
		return nil, errors.New(refusal)
	}
	files, err := Receive(conn, descriptors, func(from int) error { return WriteMessage(conn, s.Ask("descriptors", from)) })
	if err != nil {
		return nil, fmt.Errorf("cannot receive descriptors: %w", err)
	}
	l, err := TakeListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("cannot take its socket: %w", err)
	}
	if err := s.Take(&a, files[1:]); err != nil {
		return nil, err
	}
	return l, WriteMessage(conn, s.Ask("release", 0))
}
