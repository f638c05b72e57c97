package command

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// readable refuses the path of a flag that cannot be read, or is a folder where a file is wanted, or the reverse; an empty
// one was not given.
func readable(flag, path string, folder bool) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold it up
	if err == nil {
		defer f.Close()
		var info fs.FileInfo
		switch info, err = f.Stat(); {
		case err != nil:
		case folder && !info.IsDir():
			err = errors.New("it is not a folder")
		case !folder && info.IsDir():
			err = errors.New("it is a folder, want a file")
		}
	}
	return unusable(flag, path, err)
}

// unusable names flag and value before the cause; nil for nil.
func unusable(flag, value string, err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot use --%s %q: %w", flag, value, err)
}

// wantURL refuses a URL of a flag that is of none of the schemes, or has no host; an empty one was not given.
func wantURL(flag, text, want string, schemes ...string) error {
	if text == "" {
		return nil
	}
	if u, err := url.Parse(text); err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" {
		return fmt.Errorf("cannot use --%s %q: want %s", flag, text, want)
	}
	return nil
}

// usable refuses folders that cannot be made, since something on the way to them is no folder.
func (f dirFlags) usable() error {
	for flag, dir := range map[string]string{"data-dir": f.data, "run-dir": f.run} {
		if dir == "" {
			return fmt.Errorf("cannot use --%s %q: it is empty", flag, dir)
		}
		if err := makeable(flag, dir); err != nil {
			return err
		}
	}
	return nil
}

// makeable refuses a folder that cannot be made; an empty one was not given.
func makeable(flag, dir string) error {
	if info, err := os.Stat(dir); dir != "" && (err == nil && !info.IsDir() || errors.Is(err, syscall.ENOTDIR)) {
		return fmt.Errorf("cannot use --%s %q: it is not a folder", flag, dir)
	}
	return nil
}

// own says whether an address is one of a link of this machine.
func own(ip net.IP) bool {
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// command is how a command of lockstep is called, on this machine and for these folders.
func (f dirFlags) command(words string) string {
	line := program() + " " + words
	for _, of := range []struct{ flag, dir, otherwise string }{{"data-dir", f.data, defaultData}, {"run-dir", f.run, defaultRun}} {
		if of.dir == of.otherwise {
			continue
		}
		if dir, err := filepath.Abs(of.dir); err == nil {
			line += " --" + of.flag + " " + quoted(dir)
		}
	}
	return line
}

// client is how a command that only asks the daemon is called.
func (f dirFlags) client(words string) string {
	f.data = defaultData
	return f.command(words)
}

// program is how this program is called: by its name where that leads to it, else by its path.
func program() string {
	self, err := os.Executable()
	if err != nil {
		return "lockstep"
	}
	if found, err := exec.LookPath("lockstep"); err == nil && same(found, self) {
		return "lockstep"
	}
	return quoted(self)
}

func same(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

var bare = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// quoted writes a word as a shell reads it.
func quoted(word string) string {
	if bare.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
