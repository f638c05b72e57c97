package keeper

import (
	"errors"
	"path/filepath"
	"strings"
)

// Version is the protocol's version: a keeper answers requests of its own version only, and a client that meets
// another one starts a keeper of its own, which takes the old one's streams over. Handover itself is the same in
// every version.
const Version = 1

// Command is the first argument that makes the program a log keeper.
const Command = "log-keeper"

// Dir is where a keeper of the run directory has its socket, its lock and its record of open streams.
func Dir(runDir string) string { return filepath.Join(runDir, Command) }

// Socket is the keeper's address: a unix socket for its owner alone.
func Socket(runDir string) string { return filepath.Join(Dir(runDir), "sock") }

const (
	// DefaultMaxSize and DefaultMaxFiles are the kubelet's containerLogMaxSize and containerLogMaxFiles.
	DefaultMaxSize  = 10 << 20
	DefaultMaxFiles = 5
	// maxMessage bounds a request or an answer. A handover of 250 containers, each with two unfinished lines, is
	// 250 × 2 × 16 KiB × 4/3 (base64) ≈ 11 MiB.
	maxMessage = 32 << 20
)

// Stream says where a container's output comes from and goes to.
type Stream struct {
	// ID names the stream; the container's id. Letters, digits, dot, dash and underscore, at most 200.
	ID string `json:"id"`
	// Path is the log file, `/var/log/pods/<ns>_<name>_<uid>/<container>/<n>.log`; its directory is made.
	Path string `json:"path"`
	// Stdout and Stderr are the paths of FIFOs, made when absent. An empty one is not read.
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	// MaxSize is the size in bytes past which the file is rotated; 0 means DefaultMaxSize, less than 0 never.
	MaxSize int64 `json:"maxSize,omitempty"`
	// MaxFiles is how many files are kept, the one written to included; 0 means DefaultMaxFiles, the least is 2.
	MaxFiles int `json:"maxFiles,omitempty"`
	// Compress asks for rotated files to be gzipped, all but the newest of them, as the kubelet does.
	Compress bool `json:"compress,omitempty"`
}

func (s *Stream) validate() error {
	switch {
	case s.ID == "" || len(s.ID) > 200 || strings.ContainsFunc(s.ID, unsafeInName) || s.ID[0] == '.':
		return errors.New("its id is not a plain name")
	case !filepath.IsAbs(s.Path):
		return errors.New("its path is not absolute")
	case s.Stdout == "" && s.Stderr == "":
		return errors.New("it has neither stdout nor stderr")
	case s.Stdout == s.Stderr:
		return errors.New("its stdout is its stderr")
	case s.Stdout != "" && !filepath.IsAbs(s.Stdout), s.Stderr != "" && !filepath.IsAbs(s.Stderr):
		return errors.New("a fifo's path is not absolute")
	}
	return nil
}

func unsafeInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_')
}

func (s *Stream) applyDefaults() {
	if s.MaxSize == 0 {
		s.MaxSize = DefaultMaxSize
	}
	if s.MaxFiles == 0 {
		s.MaxFiles = DefaultMaxFiles
	}
	s.MaxFiles = max(s.MaxFiles, 2)
}

// StreamStats is what became of one stream's output since it was opened.
type StreamStats struct {
	Stream Stream `json:"stream"`
	// Bytes were read from the container; Lines were written, unfinished ones included.
	Bytes int64 `json:"bytes"`
	Lines int64 `json:"lines"`
	// DroppedBytes and DroppedLines could not be written, and are lost. The log tells of them where they are missing, once
	// it can be written again; Gaps are what it has not told yet, of stdout and stderr.
	DroppedBytes int64  `json:"droppedBytes,omitempty"`
	DroppedLines int64  `json:"droppedLines,omitempty"`
	Gaps         [2]Gap `json:"gaps,omitzero"`
	// Error is why the last write failed; empty after one that did not.
	Error string `json:"error,omitempty"`
}

// Stats is the state of a keeper.
type Stats struct {
	PID     int           `json:"pid"`
	Build   string        `json:"build"`
	Streams []StreamStats `json:"streams"`
}

// Request is one line of JSON from a client.
type Request struct {
	Version int `json:"v"`
	// Op is "open" (Stream), "close" (ID), "reopen" (ID, after the log file was moved by somebody else), "stats",
	// and between keepers "handover", "descriptors" (From) and "release".
	Op     string  `json:"op"`
	Stream *Stream `json:"stream,omitempty"`
	ID     string  `json:"id,omitempty"`
	From   int     `json:"from,omitempty"`
}

// Answer is one line of JSON from the keeper.
type Answer struct {
	Version int       `json:"v"`
	Error   string    `json:"error,omitempty"`
	Stats   *Stats    `json:"stats,omitempty"`
	Handed  *handover `json:"handed,omitempty"`
}
