package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestEnvKey(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("A='root'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"vars": "# comment\nA='one' # and more\nB='two\nlines'\nEMPTY=''\n", "bad": "A=1\n",
		"large": "A='" + strings.Repeat("x", maxEnvFile) + "'\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("vars", filepath.Join(dir, "link")),
		os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink("../../../../../../.."+outside, filepath.Join(dir, "up"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, key, want string
		err             error
	}{
		{"vars", "A", "one", nil}, {"vars", "B", "two\nlines", nil}, {"vars", "EMPTY", "", nil}, {"vars", "C", "", nil},
		{"link", "A", "one", nil}, {"absent", "A", "", os.ErrNotExist}, {"bad", "A", "", ErrEnvFile}, {"large", "A", "", ErrEnvFile},
		{"fifo", "A", "", ErrEnvFile}, {".", "A", "", ErrEnvFile}, {"out", "A", "", ErrEnvFile}, {"up", "A", "", ErrEnvFile},
	} {
		left := MaxEnvFiles
		if got, err := EnvKey(Mounted{HostPath: dir}, c.path, c.key, &left); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s of %s = %q, %v", c.key, c.path, got, err)
		}
	}
	// Thousands of variables of one large file take no more of the node than a few.
	text := strings.Repeat("A='"+strings.Repeat("x", 1<<10)+"'\n", maxEnvFile/2>>10)
	if err := os.WriteFile(filepath.Join(dir, "half"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	left, times := MaxEnvFiles, 0
	for ; times < 10_000; times++ {
		if _, err := EnvKey(Mounted{HostPath: dir}, "half", "B", &left); err != nil {
			break
		}
	}
	if times != MaxEnvFiles/len(text) {
		t.Errorf("read %d times", times)
	}
}
