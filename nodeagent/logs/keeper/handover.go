package keeper

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"time"

	"lockstep/nodeagent/companion/core"
)

// handover describes what goes to a successor: first the listening socket, then every stream's FIFOs in this order.
type handover struct {
	Descriptors int          `json:"descriptors"`
	Streams     []handedOver `json:"streams"`
}

// handedOver is one stream's state: the beginnings of unfinished lines and what is counted.
type handedOver struct {
	Stream Stream      `json:"stream"`
	Stdout []byte      `json:"stdout,omitempty"`
	Stderr []byte      `json:"stderr,omitempty"`
	Stats  StreamStats `json:"stats"`
	// Last is the time of the newest lines, and no earlier than that of the newest rotated file.
	Last time.Time `json:"last"`
}

// offer stops all streams, and returns their descriptors and what goes with them.
func (k *keeper) offer() ([]*os.File, Answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	answer := Answer{Version: Version}
	if k.handing {
		answer.Error = "this log keeper is being replaced already"
		return nil, answer
	}
	listener, err := k.listener.File()
	if err != nil {
		answer.Error = "cannot hand over the keeper's socket: " + err.Error()
		return nil, answer
	}
	k.handing = true
	files := []*os.File{listener}
	answer.Handed = &handover{}
	ids := make([]string, 0, len(k.streams))
	for id := range k.streams {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	for _, id := range ids {
		s := k.streams[id]
		s.stop()
		handed := handedOver{Stream: s.spec, Stats: s.statistics(), Last: s.last}
		for i, rest := range []*[]byte{&handed.Stdout, &handed.Stderr} {
			if f := s.fifos[i]; f != nil {
				*rest = f.framer.rest
				files = append(files, f.f)
			}
		}
		answer.Handed.Streams = append(answer.Handed.Streams, handed)
	}
	answer.Handed.Descriptors = len(files)
	return files, answer
}

// resume goes on as if there had been no offer.
func (k *keeper) resume() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.handing = false
	k.start()
}

// takeOver asks the keeper behind the socket for its streams. It returns false when nobody is there.
func (k *keeper) takeOver(socket string) (bool, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return false, nil
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(core.Patience))
	if err := core.WriteMessage(conn, &Request{Version: Version, Op: "handover"}); err != nil {
		return false, fmt.Errorf("cannot ask the running log keeper for its streams: %w", err)
	}
	// Nothing else is sent before it is asked for, so the reader takes no byte that descriptors come with.
	var answer Answer
	if err := core.ReadMessage(bufio.NewReader(conn), &answer, maxMessage); err != nil {
		return false, fmt.Errorf("cannot take over from the running log keeper: %w", err)
	}
	if answer.Handed == nil {
		return false, fmt.Errorf("cannot take over from the running log keeper: %s", answer.Error)
	}
	files, err := core.Receive(conn, answer.Handed.Descriptors, func(from int) error {
		return core.WriteMessage(conn, &Request{Version: Version, Op: "descriptors", From: from})
	})
	if err != nil {
		return false, fmt.Errorf("cannot take over the descriptors of the running log keeper: %w", err)
	}
	if k.listener, err = core.TakeListener(files[0]); err != nil {
		return false, fmt.Errorf("cannot take over the socket of the running log keeper: %w", err)
	}
	files = files[1:]
	for _, handed := range answer.Handed.Streams {
		s := plainStream(handed.Stream)
		s.stats, s.last, s.file.rotated = handed.Stats, handed.Last, handed.Last
		for i, path := range []string{handed.Stream.Stdout, handed.Stream.Stderr} {
			if path == "" {
				continue
			}
			if len(files) == 0 {
				return false, errors.New("cannot take over from the running log keeper: a descriptor is missing")
			}
			rest := [2][]byte{handed.Stdout, handed.Stderr}[i]
			s.fifos[i] = &fifo{framer: framer{name: outputs[i], rest: rest}, f: files[0]}
			files = files[1:]
		}
		k.streams[handed.Stream.ID] = s
	}
	if err := core.WriteMessage(conn, &Request{Version: Version, Op: "release"}); err != nil {
		return false, fmt.Errorf("cannot release the running log keeper: %w", err)
	}
	return true, nil
}
