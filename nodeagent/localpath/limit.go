package localpath

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/whole"
	"lockstep/kinds"
	"lockstep/nodeagent/beneath"
	"lockstep/nodeagent/projects"
)

const (
	// firstProject begins the projects that volumes get: above those that people count from, and that kubelets and container engines take.
	firstProject = 1 << 30
	// projectSpan is how many there are: two of a thousand volumes begin with the same one once in four thousand nodes.
	projectSpan = 1 << 31
	// projectTries bounds the projects that are looked at for one that nobody has.
	projectTries = 1 << 10
)

// Limit has the file system hold the directory of a volume to its capacity, if it can; enforced says that it does. It may be called again
// at any time, also after the volume has grown or a crash: what is right already stays as it is. A directory that is absent is no error.
//
// The project of a volume is in its record alone: a program may change that of its files.
func (d Directories) Limit(ctx context.Context, pv *corev1.PersistentVolume) (enforced bool, err error) {
	if err := d.check(pv); err != nil || kinds.Block(pv.Spec.VolumeMode) || d.Quotas == nil || d.Records == "" {
		return false, err
	}
	own, err := d.open(pv.Name)
	if own == nil || err != nil {
		return false, err
	}
	defer own.Close()
	err = own.Control(func(fd int) error {
		if enforced, err = d.Quotas.Enforced(fd); !enforced || err != nil {
			return err
		}
		return d.limit(ctx, pv, fd)
	})
	return enforced && err == nil, err
}

// open opens the directory of a volume; nil: it is absent.
func (d Directories) open(name string) (*beneath.Dir, error) {
	top, err := beneath.Open(d.Dir)
	var own *beneath.Dir
	if err == nil {
		defer top.Close()
		own, err = top.Open(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return own, err
}

func (d Directories) limit(ctx context.Context, pv *corev1.PersistentVolume, fd int) error {
	project, err := d.project(pv.Name)
	if err == nil && project == 0 {
		project, err = d.takeProject(pv.Name, fd)
	}
	if err != nil {
		return err
	}
	usage, err := d.Quotas.Usage(fd, project)
	if err != nil {
		return err
	}
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	limit := uint64(max(0, capacity.Value()))
	if usage.Limit < limit || usage.Limit-limit >= projects.LargestBlock { // else it is that, rounded up
		if err := d.Quotas.Limit(fd, project, limit); err != nil {
			return err
		}
	}
	if of, err := d.Quotas.Of(fd); err != nil || of == project {
		return err
	}
	return beneath.Each(ctx, d.Path(pv.Name), func(fd int) error { return d.Quotas.Give(fd, project) })
}

// project is the project of a volume; zero: it has none.
func (d Directories) project(name string) (uint32, error) {
	if d.Records == "" {
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(d.Records, name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	project, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("the record of volume %s is damaged: %w", name, err)
	}
	return uint32(project), nil
}

// takeProject gives a volume a project that nobody has, neither another volume nor a program beside us, and records it. One volume has its
// turn at a time.
func (d Directories) takeProject(name string, fd int) (uint32, error) {
	if err := os.MkdirAll(d.Records, rootOnly); err != nil {
		return 0, err
	}
	dir, err := os.Open(d.Records)
	if err != nil {
		return 0, err
	}
	defer dir.Close() // and with it the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return 0, os.NewSyscallError("flock", err)
	}
	if project, err := d.project(name); project != 0 || err != nil {
		return project, err
	}
	taken := map[uint32]bool{}
	records, err := os.ReadDir(d.Records)
	if err != nil {
		return 0, err
	}
	for _, r := range records {
		if project, err := d.project(r.Name()); err == nil {
			taken[project] = true
		}
	}
	project, err := chooseProject(name, func(project uint32) (bool, error) {
		usage, err := d.Quotas.Usage(fd, project)
		return !taken[project] && usage == projects.Usage{}, err
	})
	if err != nil {
		return 0, err
	}
	return project, whole.Write(filepath.Join(d.Records, name), fmt.Appendln(nil, project))
}

// chooseProject is the first project that is free, from one on that is by the volume's name.
func chooseProject(name string, free func(uint32) (bool, error)) (uint32, error) {
	h := fnv.New32a()
	h.Write([]byte(name))
	for i := range uint32(projectTries) {
		project := firstProject + (h.Sum32()+i)%projectSpan
		if is, err := free(project); is || err != nil {
			return project, err
		}
	}
	return 0, fmt.Errorf("cannot limit volume %s: %d projects are taken", name, projectTries)
}

// unlimit takes the limit of a volume away, so that its project is free.
func (d Directories) unlimit(name string) error {
	project, err := d.project(name)
	if project == 0 || err != nil || d.Quotas == nil {
		return err
	}
	top, err := beneath.Open(d.Dir)
	if err != nil {
		return err
	}
	defer top.Close()
	return top.Control(func(fd int) error {
		if enforced, err := d.Quotas.Enforced(fd); !enforced || err != nil {
			return err
		}
		return d.Quotas.Limit(fd, project, 0)
	})
}

// Unlimit takes the limits of all volumes away.
func (d Directories) Unlimit() error {
	there, _, err := d.Names()
	errs := []error{err}
	for _, name := range there {
		errs = append(errs, d.unlimit(name))
	}
	return errors.Join(errs...)
}

// Measure is what a volume takes on the disk, and whether its file system holds it to its capacity: then that is asked, and else all files
// are looked at. With an error, it is what was counted until then.
func (d Directories) Measure(ctx context.Context, name string) (size beneath.Size, held bool, err error) {
	usage, held, err := d.counted(name)
	if held && err == nil {
		return beneath.Size{Bytes: usage.Bytes, Inodes: usage.Inodes}, true, nil
	}
	size, walked := beneath.Usage(ctx, d.Path(name))
	return size, false, errors.Join(err, walked)
}

// counted is what the file system has counted of a volume, if it holds it to a limit.
func (d Directories) counted(name string) (usage projects.Usage, held bool, err error) {
	project, err := d.project(name)
	if project == 0 || err != nil || d.Quotas == nil {
		return usage, false, err
	}
	own, err := d.open(name)
	if own == nil || err != nil {
		return usage, false, err
	}
	defer own.Close()
	err = own.Control(func(fd int) error {
		if held, err = d.Quotas.Enforced(fd); !held || err != nil {
			return err
		}
		of, err := d.Quotas.Of(fd)
		if err == nil {
			usage, err = d.Quotas.Usage(fd, project)
		}
		held = of == project && usage.Limit > 0
		return err
	})
	return usage, held, err
}
