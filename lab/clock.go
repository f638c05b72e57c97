package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Skew puts the clock that the host's services read ahead, or, below zero, back; zero: it is the machine's again. The kernel has one
// clock for all namespaces (time_namespaces(7)), so it is done where programs read it, as a debugger would: the function that the
// kernel has mapped into each for that, clock_gettime of the vDSO, is made to add what the clock is off by. What a service has measured
// time with, the monotonic clock, goes on. Processes that services start keep the machine's clock. A service that is started later
// begins with it, too, and is put right within milliseconds. A reboot ends it.
func (l *Lab) Skew(h *Host, by time.Duration) error {
	if by%time.Second != 0 {
		return fmt.Errorf("cannot put the clock of %s off by %s: whole seconds are", h.Name, by)
	}
	return l.change(func() error {
		h.Skew = by
		for _, name := range h.serviceNames() {
			if p := h.Services[name]; p.alive() {
				if err := skew(p, by); err != nil {
					return fmt.Errorf("cannot put the clock of %s on %s off: %w", name, h.Name, err)
				}
			}
		}
		return nil
	})
}

// skewStarted puts off the clock of a service that was just started, where its host's is.
func skewStarted(h *Host, service string) error {
	if h.Skew == 0 {
		return nil
	}
	p := h.Services[service]
	const patience = 10 * time.Second // until nsenter has become the service, on a busy machine
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		switch {
		case err == nil && filepath.Base(program) != "nsenter":
			return skew(p, h.Skew)
		case !p.alive() || time.Now().After(end):
			return fmt.Errorf("cannot put the clock of %s on %s off: %w", service, h.Name, err)
		}
	}
}

// The function that is put in the place of clock_gettime, for x86-64. It asks the kernel, and adds seconds to what it is told of the
// clock 0, CLOCK_REALTIME, so that a reader's registers are as after the one before.
var (
	clockCode = []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, 0x75, 17, // test edi, edi; jne end
		0x85, 0xc0, 0x75, 13, // test eax, eax; jne end
		0x48, 0xb9, // mov rcx, seconds
	}
	clockRest = []byte{
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // end: ret
	}
)

// jumpSize is the size of a jump to it.
const jumpSize = 5

// skew puts off the clock of a process.
func skew(p process, by time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return errors.New("that is written for amd64 only")
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }()
	clock, room, err := findClock(p.PID, memory)
	if err != nil {
		return err
	}
	code := append(binary.LittleEndian.AppendUint64(bytes.Clone(clockCode), uint64(int64(by/time.Second))), clockRest...)
	if _, err := memory.WriteAt(code, room); err != nil {
		return err
	}
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(room-clock-jumpSize))
	return stopped(p, func() (bool, error) {
		if within, err := anyWithin(p.PID, clock+1, clock+jumpSize); within || err != nil {
			return false, err
		}
		_, err := memory.WriteAt(jump, clock)
		return true, err
	})
}

// stopped calls f while the process stands still, again and again until it has done what it has to do, or fails.
func stopped(p process, f func() (done bool, err error)) error {
	const tries = 100 // a thread is within the first instructions of one function: hardly ever twice
	for range tries {
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		for state, _ := stat(p.PID); state != "T" && state != "" && state != "Z"; state, _ = stat(p.PID) {
			time.Sleep(100 * time.Microsecond)
		}
		done, err := f()
		if again := p.signal(syscall.SIGCONT); done || err != nil || again != nil {
			return errors.Join(err, again)
		}
	}
	return errors.New("a thread of it is always reading the clock")
}

// anyWithin says whether a thread of a process that stands still is at an instruction from first to before end.
func anyWithin(pid int, first, end int64) (bool, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false, err
	}
	for _, t := range threads {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, t.Name())) // proc(5): its last field is where it is
		if err != nil {
			return false, err
		}
		fields := strings.Fields(string(raw))
		at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil || at >= first && at < end {
			return true, nil //nolint:nilerr // "running": it has not stopped yet
		}
	}
	return false, nil
}

// findClock returns where a process has clock_gettime, and where beside it is room for another function.
func findClock(pid int, memory io.ReaderAt) (clock, room int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		var first, end int64
		if _, err := fmt.Sscanf(line, "%x-%x", &first, &end); err != nil {
			return 0, 0, fmt.Errorf("cannot read %q: %w", line, err)
		}
		image := make([]byte, end-first)
		if _, err := memory.ReadAt(image, first); err != nil {
			return 0, 0, err
		}
		clock, room, err := clockIn(image)
		return first + clock, first + room, err
	}
	return 0, 0, errors.New("it has no vDSO")
}

// clockIn returns where a vDSO has clock_gettime, and where there is room for another function: at its end, which is filled with zeros,
// or has that function already.
func clockIn(image []byte) (clock, room int64, err error) {
	parsed, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, err
	}
	symbols, err := parsed.DynamicSymbols()
	if err != nil {
		return 0, 0, err
	}
	size := len(clockCode) + 8 + len(clockRest)
	last := image[len(image)-size:]
	if !bytes.HasPrefix(last, clockCode) && len(bytes.Trim(last, "\x00")) > 0 {
		return 0, 0, errors.New("its vDSO has no room")
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" {
			return int64(s.Value), int64(len(image) - size), nil
		}
	}
	return 0, 0, errors.New("its vDSO has no clock_gettime")
}
