package core

import (
	"bufio"
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
