package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/sleep"
	"lockstep/internal/starved"
	"lockstep/lab"
	"lockstep/nodeagent/logs/keeper"
)

// stats is what load print says of itself.
type stats struct {
	Lines   int64
	Longest time.Duration
	Until   time.Time
}

// ask gets a printer's statistics and begins a new window of the longest wait.
func ask(ctx context.Context, client *http.Client, addr string) (s stats, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return s, err
	}
	response, err := client.Do(request)
	if err != nil {
		return s, err
	}
	defer func() { _ = response.Body.Close() }()
	return s, json.NewDecoder(response.Body).Decode(&s)
}

// onHost is a client whose connections are a host's. A dial goes on when its request has been given up, so it ends before.
func onHost(h *lab.Host) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = h.Do(func() error {
				conn, err = (&net.Dialer{Timeout: 4 * time.Second}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
}

// follower reads a container's log from its files as it is written and counts the numbered lines that are missing. Each
// file is opened as soon as it is seen, so that rotation may remove it before it is read.
type follower struct {
	path string
	last atomic.Int64 // number of the newest line
	lost atomic.Int64

	mu    sync.Mutex
	files []*os.File
	err   error
}

func follow(t *testing.T, path string) *follower {
	t.Helper()
	f := &follower{path: path}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { f.open(ctx) })
	tasks.Go(func() { f.read(ctx) })
	t.Cleanup(func() {
		cancel()
		tasks.Wait()
	})
	return f
}

// open keeps opening the file that is written, and those that were rotated away since the last look.
func (f *follower) open(ctx context.Context) {
	var newest os.FileInfo
	known := map[string]bool{}
	for ; ctx.Err() == nil; sleep.For(ctx, 20*time.Millisecond) {
		if info, err := os.Stat(f.path); err != nil || newest != nil && os.SameFile(newest, info) {
			continue
		}
		for _, name := range append(keeper.Rotated(f.path), f.path) {
			if known[name] {
				continue
			}
			known[name] = name != f.path
			file, err := os.Open(name)
			if err != nil {
				continue // a rotation in between: the next look finds it under its new name
			}
			info, err := file.Stat()
			if err != nil || newest != nil && os.SameFile(newest, info) {
				_ = file.Close()
				continue
			}
			newest = info
			f.mu.Lock()
			f.files = append(f.files, file)
			f.mu.Unlock()
		}
	}
}

// read reads the files one after the other; one ends when the next has begun.
func (f *follower) read(ctx context.Context) {
	for ctx.Err() == nil {
		f.mu.Lock()
		waiting := len(f.files)
		var file *os.File
		if waiting > 0 {
			file = f.files[0]
		}
		f.mu.Unlock()
		if file == nil {
			sleep.For(ctx, 10*time.Millisecond)
			continue
		}
		err := f.readFile(ctx, file)
		f.mu.Lock()
		f.files = f.files[1:]
		f.err = errors.Join(f.err, err)
		f.mu.Unlock()
		_ = file.Close()
	}
}

func (f *follower) readFile(ctx context.Context, file *os.File) error {
	in := bufio.NewReaderSize(file, 1<<20)
	var line []byte
	ending := false
	for ctx.Err() == nil {
		piece, err := in.ReadSlice('\n')
		line = append(line, piece...)
		switch {
		case err == nil:
			if err := f.count(line); err != nil {
				return err
			}
			line = line[:0]
		case errors.Is(err, io.EOF):
			if ending {
				if len(line) > 0 {
					return fmt.Errorf("a rotated file ends in the middle of a line: %.80q", line)
				}
				return nil
			}
			f.mu.Lock()
			more := len(f.files) > 1
			f.mu.Unlock()
			if ending = more; !more { // once the next one exists, what is read after it is all there is
				sleep.For(ctx, 10*time.Millisecond)
			}
		default:
			return err
		}
	}
	return nil
}

// count takes in one line of the log: TIME stdout F NUMBER PADDING.
func (f *follower) count(line []byte) error {
	fields := bytes.SplitN(line, []byte(" "), 5)
	if len(fields) != 5 || string(fields[2]) != "F" {
		return fmt.Errorf("a line of the log is not one that was printed: %.80q", line)
	}
	n, err := strconv.ParseInt(string(fields[3]), 10, 64)
	if err != nil || len(line) < 200 {
		return fmt.Errorf("a line of the log is not one that was printed: %.80q", line)
	}
	last := f.last.Load()
	switch {
	case last == 0: // where the follower began
	case n <= last:
		return fmt.Errorf("line %d comes after line %d", n, last)
	default:
		f.lost.Add(n - last - 1)
	}
	f.last.Store(n)
	return nil
}

// reach waits until the log holds a line, and returns how many are missing by now.
func (f *follower) reach(ctx context.Context, line int64) (lost int64, err error) {
	err = until(ctx, 30*time.Second, fmt.Sprintf("line %d in the log", line), func() (bool, string) {
		return f.last.Load() >= line, fmt.Sprintf("it has %d", f.last.Load())
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost.Load(), errors.Join(err, f.err)
}

// starvation knows for how long the processes that carry a container's output wanted a processor and got none: what a
// busy machine does to everybody is not the log's doing.
type starvation struct {
	pids []int

	mu      sync.Mutex
	samples []sample
}

// sample is how long their threads have waited for a processor by then.
type sample struct {
	at     time.Time
	waited time.Duration
}

const sampleEvery = 20 * time.Millisecond

func watchStarvation(t *testing.T, pids ...int) *starvation {
	t.Helper()
	s := &starvation{pids: pids}
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() {
		for ; ctx.Err() == nil; sleep.For(ctx, sampleEvery) {
			now := sample{time.Now(), 0}
			for _, pid := range s.pids {
				now.waited += starved.Of(pid)
			}
			s.mu.Lock()
			s.samples = append(s.samples, now)
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		task.Wait()
	})
	return s
}

// within is how long they have waited in an interval, at most.
func (s *starvation) within(from, to time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first, last sample
	for _, now := range s.samples {
		if now.at.Before(from) || first.at.IsZero() {
			first = now
		}
		if last = now; now.at.After(to) {
			break
		}
	}
	return last.waited - first.waited
}

// forget drops what lies before a window.
func (s *starvation) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.samples); n > 0 {
		s.samples = s.samples[n-1:]
	}
}

// carriers are the processes that carry the output of a container on the host: its shim and the log keeper.
func carriers(h *lab.Host, container uint32) ([]int, error) {
	shim, err := parent(int(container))
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", h.Holder.PID))
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		raw, _ := os.ReadFile(name)
		ns, _ := os.Readlink(filepath.Join(filepath.Dir(name), "ns", "mnt"))
		if args := strings.Split(string(raw), "\x00"); len(args) > 1 && args[1] == keeper.Command && ns == own {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return []int{shim, pid}, err
		}
	}
	return nil, errors.New("there is no log keeper")
}

func parent(pid int) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))[1])
}

func logPath(h *lab.Host, namespace, pod, uid, container string) string {
	return filepath.Join(h.DataDir(), "pods-logs", strings.Join([]string{namespace, pod, uid}, "_"), container, "0.log")
}
