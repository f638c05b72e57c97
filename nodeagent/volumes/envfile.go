package volumes

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/kubelet/util/env"
)

// maxEnvFile bounds a file of variables, which a pod wrote: many times what a process may have of them in one.
const maxEnvFile = 1 << 20

// MaxEnvFiles bounds in bytes what is read of such files for one container: each of its variables has its file read.
const MaxEnvFiles = 32 << 20

// ErrEnvFile says that a file of variables is none; the text is the kubelet's.
var ErrEnvFile = errors.New("couldn't parse env file")

// EnvKey is the value of a variable in a file of a volume, which has lines of `NAME='value'` as the kubelet reads them; empty
// where the file lacks it. An error for which errors.Is(err, os.ErrNotExist) holds says that there is no such file, ErrEnvFile
// that it cannot be read, or has more bytes than are left, which are made as many less. Links are followed within the volume, and
// nothing that a pod made is waited for.
func EnvKey(volume Mounted, path, key string, left *int) (string, error) {
	data, err := readBeneath(volume.HostPath, path)
	if errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if *left -= len(data); *left < 0 {
		err = fmt.Errorf("those of the container's variables have more than %d bytes together", MaxEnvFiles)
	}
	var value string
	if err == nil {
		value, err = parseEnv(data, key)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEnvFile, err)
	}
	return value, nil
}

// readBeneath reads a regular file below root.
func readBeneath(root, path string) ([]byte, error) {
	found, err := openBeneath(root, path, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(found)
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no regular file")
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", found)) // what was looked at, whatever has its name now
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err == nil && len(data) > maxEnvFile {
		err = fmt.Errorf("it has more than %d bytes", maxEnvFile)
	}
	return data, err
}

// parseEnv has the kubelet's parser, which wants a path, read a copy that nobody else can change.
func parseEnv(data []byte, key string) (string, error) {
	fd, err := unix.MemfdCreate("env", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "env")
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return env.ParseEnv(fmt.Sprintf("/proc/self/fd/%d", fd), key)
}
