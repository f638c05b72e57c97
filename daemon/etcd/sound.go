package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"lockstep/internal/whole"
)

// begunFile says that etcd has run with the data: what is absent of them by now was lost. Without it, a first start may have been
// interrupted.
const begunFile = "begun"

// ErrDamaged says that etcd's data are there and cannot be used. Its text says what to do.
var ErrDamaged = errors.New("the data of etcd are damaged")

func damaged(dir string, why string) error {
	return fmt.Errorf("%w: %s. Nothing was changed. Restore a backup (lockstep restore FILE --replace); or, without one, move %s away "+
		"and start again: what Git has and what nodes run is then put together again (docs/operations.md, When etcd is lost)",
		ErrDamaged, why, filepath.Join(dir, dataDir))
}

// sound says what is wrong with the files of an etcd, before it is started: it would take some of that for a new cluster, and end
// the process for some. No files at all are a new cluster.
func sound(dir string) error {
	member := filepath.Join(dir, dataDir)
	if _, err := os.Stat(member); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(member, "member", "wal", "*.wal"))
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, begunFile))
	ran := err == nil
	database := filepath.Join(member, "member", "snap", "db")
	switch info, err := os.Stat(database); {
	case len(logs) == 0 && !ran:
		return nil // it was never used
	case len(logs) == 0:
		return damaged(dir, "its log of writes is gone ("+filepath.Join(member, "member", "wal")+")")
	case errors.Is(err, os.ErrNotExist):
		return damaged(dir, "its database is gone ("+database+")")
	case err != nil:
		return err
	case info.Size() == 0:
		return damaged(dir, "its database is empty ("+database+")")
	}
	if err := recovered(func() error { return readable(database) }); err != nil {
		return damaged(dir, fmt.Sprintf("its database cannot be read (%s: %v)", database, err))
	}
	return nil
}

// openTimeout bounds the wait for a file that another process has.
const openTimeout = time.Second

// readable opens the database, which checks the pages that lead to all others, and compares its size with what it says to have.
func readable(database string) error {
	db, err := bbolt.Open(database, 0o600, &bbolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return err
	}
	return errors.Join(db.View(func(tx *bbolt.Tx) error {
		if info, err := os.Stat(database); err != nil || info.Size() < tx.Size() {
			return fmt.Errorf("it is cut off, at less than the %d bytes that it says to have", tx.Size())
		}
		return tx.ForEach(func([]byte, *bbolt.Bucket) error { return nil })
	}), db.Close())
}

// unsound says of an error with which etcd does not start whether it is its data's.
func unsound(dir string, err error) error {
	for _, words := range []string{"wal:", "walpb:", "snap:", "crc mismatch", "unexpected EOF", "failed to recover", "checksum", "page "} {
		if strings.Contains(err.Error(), words) {
			return damaged(dir, err.Error())
		}
	}
	return err
}

// begun notes that etcd runs with the data.
func begun(dir string) error {
	path := filepath.Join(dir, begunFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := whole.Write(path, []byte("etcd has run with the data beside this file\n")); err != nil {
		return fmt.Errorf("cannot note that etcd has run: %w", err)
	}
	return nil
}
