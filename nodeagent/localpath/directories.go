// Package localpath keeps the volumes that are directories of this node.
package localpath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"lockstep/internal/whole"
	"lockstep/kinds"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/projects"
)

const (
	// everyone may write to a volume, as to one of Kubernetes' local-path provisioner: programs run as who they like. The directory
	// above is root's alone, so that this is for those it is mounted for.
	everyone = 0o777
	// rootOnly is the mode of the directory above.
	rootOnly = 0o700
	// going begins the names of directories that are being removed. No volume's name begins with a dot.
	going = ".removed-"
	// making begins the names of directories and files that are being made.
	making = ".new-"
	// ownerOnly is the mode of a file that is a device: programs have the device.
	ownerOnly = 0o600
	// sector is the least that a loop device shows of a file.
	sector = 512
	// maxNames bounds how many directories are listed.
	maxNames = 1 << 16
)

// Directories are those of volumes, each named as its PersistentVolume, below one directory. The zero value has none.
type Directories struct {
	// Dir has them; it is made when it is needed. A pod can write no part of its path.
	Dir string
	// Node is this node's name.
	Node string
	// Records has a file for each volume whose directory was made, on a disk that may be another one; empty: that is not known.
	Records string
	// Quotas hold volumes to their capacity where the file system of Dir has them; nil: nothing does.
	Quotas projects.Quotas
}

// ErrGone says that a volume's directory was here, and is not any more.
var ErrGone = errors.New("its directory was made before and is gone; if that is not for want of a mount, and its data are not " +
	"needed, make an empty one there")

// Path is where a volume is.
func (d Directories) Path(name string) string { return filepath.Join(d.Dir, name) }

// check refuses a volume that is another node's, or is said to be elsewhere than in its own directory.
func (d Directories) check(pv *corev1.PersistentVolume) error {
	switch local := pv.Spec.Local; {
	case len(validation.NameIsDNSSubdomain(pv.Name, false)) > 0:
		return fmt.Errorf("volume %q has no name of a directory", pv.Name)
	case kinds.LocalPathOf(pv) != d.Node:
		return fmt.Errorf("volume %s is of node %q, not of this one", pv.Name, kinds.LocalPathOf(pv))
	case local == nil || local.Path != d.Path(pv.Name):
		return fmt.Errorf("volume %s is not at %s, the only place where it can be", pv.Name, d.Path(pv.Name))
	}
	return nil
}

// Make makes the directory of a volume, or its file if it is of mode Block, unless it is there. When it returns nil the directory outlives
// a loss of power. One that was made before, by this node or by one of its name that was removed, is not made again: a program would begin
// anew, without its data, and nobody would know. That is ErrGone.
func (d Directories) Make(pv *corev1.PersistentVolume) error {
	if err := d.check(pv); err != nil {
		return err
	}
	if err := os.MkdirAll(d.Dir, rootOnly); err != nil {
		return err
	}
	top, err := beneath.Open(d.Dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if _, err := top.Stat(pv.Name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = there(top, pv)
		}
		return cmp.Or(err, d.record(pv.Name))
	}
	if made, err := d.made(pv.Name); err != nil || made || pv.Annotations[kinds.LocalPathMade] != "" {
		return cmp.Or(err, fmt.Errorf("volume %s at %s: %w", pv.Name, d.Path(pv.Name), ErrGone))
	}
	make := makeDirectory
	if kinds.Block(pv.Spec.VolumeMode) {
		make = makeFile
	}
	if err := make(top, pv); err != nil {
		return err
	}
	above, err := beneath.Open(filepath.Dir(d.Dir))
	if err != nil {
		return err
	}
	defer above.Close()
	if err := errors.Join(top.Sync(), above.Sync()); err != nil {
		return err
	}
	if err := d.record(pv.Name); err != nil {
		return err
	}
	_, _ = d.Limit(context.Background(), pv) // of an empty directory; the keeper tries again, and tells
	return nil
}

// there is an error if what has the volume's name is not what the volume is.
func there(top *beneath.Dir, pv *corev1.PersistentVolume) error {
	if kinds.Block(pv.Spec.VolumeMode) {
		f, err := top.File(pv.Name)
		if err != nil {
			return err
		}
		return f.Close()
	}
	own, err := top.Open(pv.Name)
	if err != nil {
		return err
	}
	own.Close()
	return nil
}

// makeDirectory makes the directory of a volume, whole at once: one that a crash has left for root alone would keep programs from it.
func makeDirectory(top *beneath.Dir, pv *corev1.PersistentVolume) error {
	unready := making + pv.Name
	if err := top.RemoveAll(context.Background(), unready); err != nil {
		return err
	}
	own, err := top.Make(unready, beneath.Attr{Mode: everyone})
	if err != nil {
		return err
	}
	defer own.Close()
	if err := own.Sync(); err != nil {
		return err
	}
	return top.Rename(unready, pv.Name)
}

// makeFile makes the file of a volume of mode Block, whole at once: it has the volume's size, and takes of the disk what is written to it.
func makeFile(top *beneath.Dir, pv *corev1.PersistentVolume) error {
	unready := making + pv.Name
	if err := top.Unlink(unready); err != nil {
		return err
	}
	if err := top.Create(unready, nil, beneath.Attr{Mode: ownerOnly}); err != nil {
		return err
	}
	if err := resize(top, unready, sectors(pv)); err != nil {
		return err
	}
	return top.Rename(unready, pv.Name)
}

// sectors is the capacity of a volume in bytes, rounded up to what a disk has whole.
func sectors(pv *corev1.PersistentVolume) int64 {
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	return (min(capacity.Value(), math.MaxInt64-sector) + sector - 1) / sector * sector
}

// resize has a file be so many bytes long, also after a loss of power.
func resize(top *beneath.Dir, name string, size int64) error {
	f, err := top.File(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Truncate(size); err != nil {
		return fmt.Errorf("cannot make a file of %d bytes: %w", size, err)
	}
	return w.Sync()
}

// Grow has the file of a volume of mode Block be as large as the volume by now. One that is larger stays as it is, and one that is absent
// is no error.
func (d Directories) Grow(pv *corev1.PersistentVolume) error {
	if err := d.check(pv); err != nil {
		return err
	}
	top, err := beneath.Open(d.Dir)
	if err == nil {
		defer top.Close()
		var st unix.Stat_t
		if st, err = top.Stat(pv.Name); err == nil && st.Size < sectors(pv) {
			err = resize(top, pv.Name, sectors(pv))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// made says whether the directory of a volume is known to have been made.
func (d Directories) made(name string) (bool, error) {
	if d.Records == "" {
		return false, nil
	}
	_, err := os.Lstat(filepath.Join(d.Records, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// record notes that the directory of a volume is made.
func (d Directories) record(name string) error {
	if made, err := d.made(name); err != nil || made || d.Records == "" {
		return err
	}
	if err := os.MkdirAll(d.Records, rootOnly); err != nil {
		return err
	}
	return whole.Write(filepath.Join(d.Records, name), nil)
}

// unrecord forgets a volume that is gone.
func (d Directories) unrecord(name string) error {
	if d.Records == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(d.Records, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Remove removes the directory of a volume with all that is in it; one that is absent is no error. It may be interrupted at any
// time, and called again: once it has begun, nobody finds the directory by the volume's name.
func (d Directories) Remove(ctx context.Context, pv *corev1.PersistentVolume) error {
	if err := d.check(pv); err != nil {
		return err
	}
	top, err := beneath.Open(d.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return d.unrecord(pv.Name)
	}
	if err != nil {
		return err
	}
	defer top.Close()
	if err := top.RemoveAll(ctx, going+pv.Name); err != nil { // what is left of an earlier call
		return err
	}
	if err := d.unlimit(pv.Name); err != nil {
		return err
	}
	switch err := top.Rename(pv.Name, going+pv.Name); {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(top.Sync(), d.unrecord(pv.Name))
	case err != nil:
		return err
	}
	if err := top.Sync(); err != nil {
		return err
	}
	if err := top.RemoveAll(ctx, going+pv.Name); err != nil {
		return err
	}
	return errors.Join(top.Sync(), d.unrecord(pv.Name))
}

// Names are the volumes that have a directory, and those of which one is being removed.
func (d Directories) Names() (there, leaving []string, err error) {
	top, err := beneath.Open(d.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer top.Close()
	names, _, err := top.Names(maxNames)
	for _, name := range names {
		if left, ok := strings.CutPrefix(name, going); ok {
			leaving = append(leaving, left)
		} else if !strings.HasPrefix(name, making) {
			there = append(there, name)
		}
	}
	return there, leaving, err
}

// Finish removes what is left of directories whose removal was interrupted.
func (d Directories) Finish(ctx context.Context) error {
	_, leaving, err := d.Names()
	errs := []error{err}
	for _, name := range leaving {
		errs = append(errs, beneath.RemoveAll(ctx, filepath.Join(d.Dir, going+name)))
	}
	return errors.Join(errs...)
}
