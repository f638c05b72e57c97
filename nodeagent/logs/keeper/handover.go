package keeper

import (
	"errors"
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

// takeOver takes the streams and the socket of the keeper behind a socket. It returns false when nobody is there.
func (k *keeper) takeOver(socket string) (bool, error) {
	var err error
	k.listener, err = core.TakeOver(socket, core.Succession[Request, Answer]{
		Most: maxMessage,
		Ask:  func(op string, from int) *Request { return &Request{Version: Version, Op: op, From: from} },
		Handed: func(a *Answer) (int, string) {
			if a.Handed == nil {
				return 0, a.Error
			}
			return a.Handed.Descriptors, ""
		},
		Take: k.take,
	})
	return k.listener != nil, err
}

// take makes its own what another keeper had.
func (k *keeper) take(a *Answer, files []*os.File) error {
	for _, handed := range a.Handed.Streams {
		s := plainStream(handed.Stream)
		s.stats, s.last, s.file.rotated = handed.Stats, handed.Last, handed.Last
		for i, path := range []string{handed.Stream.Stdout, handed.Stream.Stderr} {
			if path == "" {
				continue
			}
			if len(files) == 0 {
				return errors.New("a descriptor is missing")
			}
			rest := [2][]byte{handed.Stdout, handed.Stderr}[i]
			s.fifos[i] = &fifo{framer: framer{name: outputs[i], rest: rest}, f: files[0]}
			files = files[1:]
		}
		k.streams[handed.Stream.ID] = s
	}
	return nil
}
