// Command load is what runs in the containers of the fault tests.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fatal("want print, serve, keep or sleep")
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "print":
		printLines(args)
	case "serve":
		serve(args)
	case "keep":
		keep(args)
	case "sleep":
		time.Sleep(duration(args))
	default:
		fatal("unknown command " + os.Args[1])
	}
}

func fatal(message string) {
	fmt.Fprintln(os.Stderr, "load:", message)
	os.Exit(2)
}

func duration(args []string) time.Duration {
	if len(args) != 1 {
		fatal("want one duration")
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		fatal(err.Error())
	}
	return d
}

// Stats is what a printer says of itself.
type Stats struct {
	// Lines is the number of the last line printed; they count from 1.
	Lines int64
	// Longest is the longest that one write has waited for its reader since Stats were asked for last. The time for
	// which the printer could go on and got no processor is not part of it: that is not the reader's.
	Longest time.Duration
	// Until is when that write had gone through.
	Until time.Time
}

const (
	lineSize = 200 // bytes, its end included
	chunk    = 20  // lines in a write: below PIPE_BUF
)

// printLines prints numbered lines at a rate in bytes a second and serves Stats.
func printLines(args []string) {
	set := flag.NewFlagSet("print", flag.ExitOnError)
	rate := set.Int("rate", 10<<20, "bytes a second")
	listen := set.String("listen", ":8080", "address of the statistics")
	_ = set.Parse(args)

	var mu sync.Mutex
	var stats Stats
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		now := stats
		stats.Longest = 0
		mu.Unlock()
		_ = json.NewEncoder(w).Encode(now)
	})
	go func() { fatal(http.ListenAndServe(*listen, nil).Error()) }()

	runtime.LockOSThread()
	onCPU := newSchedule()
	line := make([]byte, lineSize)
	for i := range line {
		line[i] = byte('a' + i%26)
	}
	line[lineSize-1] = '\n'
	every := time.Duration(lineSize * chunk * int(time.Second) / *rate)
	due := time.Now()
	for n := int64(0); ; {
		buf := make([]byte, 0, lineSize*chunk)
		for range chunk {
			n++
			head := strconv.AppendInt(nil, n, 10)
			head = append(head, ' ')
			buf = append(append(buf, head...), line[len(head):]...)
		}
		began, busy := time.Now(), onCPU.read()
		if _, err := os.Stdout.Write(buf); err != nil {
			fatal(err.Error())
		}
		end := time.Now()
		mu.Lock()
		if waited := end.Sub(began) - (onCPU.read() - busy); waited > stats.Longest {
			stats.Longest, stats.Until = waited, end
		}
		stats.Lines = n
		mu.Unlock()
		// What a wait delayed is made up for, up to a second's worth.
		due = due.Add(every)
		if behind := time.Since(due); behind > time.Second {
			due = time.Now().Add(-time.Second)
		}
		if ahead := time.Until(due); ahead > 2*time.Millisecond {
			time.Sleep(ahead)
		}
	}
}

// schedule tells how long a thread has been able to run, with or without a processor: proc(5), /proc/PID/schedstat.
type schedule struct {
	file *os.File
	buf  [128]byte
}

// newSchedule is the calling thread's.
func newSchedule() *schedule {
	f, err := os.Open("/proc/thread-self/schedstat")
	if err != nil {
		fatal(err.Error())
	}
	return &schedule{file: f}
}

func (s *schedule) read() time.Duration {
	n, err := s.file.ReadAt(s.buf[:], 0)
	if n == 0 {
		fatal(err.Error())
	}
	var sum int64
	for _, field := range bytes.Fields(s.buf[:n])[:2] {
		v, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			fatal(err.Error())
		}
		sum += v
	}
	return time.Duration(sum)
}

// answer serves until the program is told to end.
func answer() {
	go func() { fatal(http.ListenAndServe(":8080", nil).Error()) }()
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	<-terminate
}

// serve answers with the host's name; it may be slow to be ready and slow to stop.
func serve(args []string) {
	set := flag.NewFlagSet("serve", flag.ExitOnError)
	start := set.Duration("start", 0, "how long it takes to be ready")
	stop := set.Duration("stop", 0, "how long it takes to end")
	_ = set.Parse(args)

	name, err := os.Hostname()
	if err != nil {
		fatal(err.Error())
	}
	began := time.Now()
	var once sync.Once
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if time.Since(began) < *start {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		once.Do(func() { fmt.Println("ready") })
		fmt.Fprintln(w, name)
	})
	answer()
	time.Sleep(*stop)
}

// keep appends the path of each POST to a file, as a line, and answers once that is on the disk; GET /lines answers with the file.
func keep(args []string) {
	if len(args) != 1 {
		fatal("want one file")
	}
	file, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		fatal(err.Error())
	}
	name, err := os.Hostname()
	if err != nil {
		fatal(err.Error())
	}
	var mu sync.Mutex
	http.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		line := strings.TrimPrefix(r.URL.Path, "/")
		if !strings.HasPrefix(line, name+"/") { // another pod's address until a moment ago
			http.Error(w, "this is "+name, http.StatusMisdirectedRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := file.WriteString(line + "\n"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if err := file.Sync(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	http.HandleFunc("GET /lines", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, args[0]) })
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	answer()
}
