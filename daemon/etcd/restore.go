package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/uuid"

	"lockstep/internal/whole"
)

const (
	// revisionBump is how far revisions jump with a restore, so that none is given twice: ten thousand writes a second for a day,
	// since the backup.
	revisionBump = 1 << 30
	// restoredFile has the identity that the data are to get when they are first used: they are not those of before.
	restoredFile = "restored"
	// stagedDir has what is being restored.
	stagedDir = "restoring"
)

// ErrData says that there are data, which a restore would replace.
var ErrData = errors.New("there are data of etcd already")

// Restore makes the data directory of an embedded etcd that is alone from a snapshot, which write writes: whole or not at all. Its data
// get another identity, and revisions that were not given before. Data that are there are an error that matches ErrData, unless they
// are to be replaced; they are then kept beside, in the folder whose name is returned. It is an error that a server runs.
func Restore(dir string, replace bool, write func(*os.File) error) (kept string, err error) {
	lock, err := lockDir(dir)
	if err != nil {
		return "", fmt.Errorf("cannot restore into %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	_, err = os.Lstat(filepath.Join(dir, dataDir))
	there := err == nil
	if there && !replace {
		return "", fmt.Errorf("cannot restore into %s: %w", dir, ErrData)
	}
	staged := filepath.Join(dir, stagedDir)
	if err := os.RemoveAll(staged); err != nil { // of a restore that was interrupted
		return "", fmt.Errorf("cannot restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged)) }()
	if err := stage(staged, write); err != nil {
		return "", fmt.Errorf("cannot restore: %w", err)
	}
	// The mark comes first: data without it would be taken for those of before.
	if err := whole.Write(filepath.Join(dir, restoredFile), []byte(string(uuid.NewUUID())+"\n")); err != nil {
		return "", fmt.Errorf("cannot restore: %w", err)
	}
	if there {
		kept = dataDir + ".before-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(filepath.Join(dir, dataDir), filepath.Join(dir, kept)); err != nil {
			return "", fmt.Errorf("cannot restore: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(dir, severalFile)); err != nil && !errors.Is(err, os.ErrNotExist) { // it is alone
		return "", fmt.Errorf("cannot restore: %w", err)
	}
	if err := os.Rename(filepath.Join(staged, dataDir), filepath.Join(dir, dataDir)); err != nil {
		return "", fmt.Errorf("cannot restore: %w", err)
	}
	return kept, whole.Sync(dir)
}

// stage makes a data directory below one that it makes.
func stage(staged string, write func(*os.File) error) error {
	if err := os.Mkdir(staged, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(staged, "snapshot"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	member := filepath.Join(staged, dataDir)
	err = recovered(func() error { return restore(f.Name(), member) })
	if err != nil {
		return err
	}
	if err := os.Chmod(member, 0o700); err != nil {
		return err
	}
	return syncTree(member)
}

// recovered is f's error; a panic is one, too: bbolt finds so what is wrong with a file.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return f()
}

func restore(from, member string) error {
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: from, Name: "lockstep", OutputDataDir: member, PeerURLs: []string{nobody}, InitialCluster: "lockstep=" + nobody,
		InitialClusterToken: "lockstep", RevisionBump: revisionBump, MarkCompacted: true,
	})
}

// syncTree makes all below a directory outlive a power cut.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return whole.Sync(path)
	})
}

// Restored is the identity that data are to get that were restored and not used yet; empty: they were not restored. It does not need
// the server.
func Restored(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, restoredFile))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// Used says that the data have the identity that Restored has told.
func Used(dir string) error {
	if err := os.Remove(filepath.Join(dir, restoredFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
