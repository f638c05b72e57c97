package command

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"lockstep/daemon/backup"
	"lockstep/daemon/control"
	"lockstep/daemon/etcd"
	"lockstep/daemon/pki"
	"lockstep/daemon/version"
)

func newBackup() *cobra.Command {
	var dirs dirFlags
	var keys, replace bool
	var recipients []string
	c := &cobra.Command{Use: "backup FILE", Short: "Back up the cluster's data, or its keys, into a file", Args: takes(1, 1),
		Long: `Write all that etcd has at this moment into FILE, compressed and with a checksum, while the daemon on
this machine goes on. With --keys write the cluster's keys instead, a few kilobytes that change
seldom: they are what a cluster cannot be put together again without, since everything else is in
Git and on the nodes. For them no daemon need run.

Both have secrets: keep them as such, or encrypt them (--recipient).`,
		Example: `  lockstep backup --keys /mnt/safe/keys
  lockstep backup /mnt/safe/today --recipient age1yt3tfqlfrwdwx0z0ynwplcr6qxcxfaqycuprpmy89nr83ltx74tqdpszlw`,
		RunE: func(cmd *cobra.Command, args []string) error {
			sealed, err := backup.Recipients(recipients)
			if err != nil {
				return err
			}
			write := func(to io.Writer) error { return control.Dial(dirs.run).Backup(cmd.Context(), recipients, to) }
			if keys {
				write = func(to io.Writer) error { return writeKeys(pki.Dir(filepath.Join(dirs.data, "pki")), to, sealed) }
			}
			size, err := backup.WriteFile(args[0], replace, write)
			if err != nil {
				return fmt.Errorf("cannot make a backup: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes\n", args[0], size)
			return err
		}}
	dirs.add(c)
	c.Flags().BoolVar(&keys, "keys", false, "write the cluster's keys, of --data-dir, and no data")
	c.Flags().BoolVar(&replace, "replace", false, "replace FILE if it is there")
	c.Flags().StringArrayVar(&recipients, "recipient", nil, "age `RECIPIENT` to encrypt it to (age1…); may be given several times")
	return c
}

func writeKeys(vault pki.Dir, to io.Writer, recipients []age.Recipient) error {
	files, err := vault.Files()
	if err != nil {
		return err
	}
	identity, err := vault.Identity()
	if err != nil {
		return err
	}
	w, err := backup.NewWriter(to, backup.About{Authority: identity, Keys: true, Version: version.Version,
		Made: time.Now().UTC().Truncate(time.Second)}, recipients)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.Key(name, files[name]); err != nil {
			return err
		}
	}
	return w.Close()
}

func newRestore() *cobra.Command {
	var dirs dirFlags
	var replace bool
	var identity string
	c := &cobra.Command{Use: "restore FILE", Short: "Put the data, or the keys, of a backup in their place", Args: takes(1, 1),
		Long: `Put what "lockstep backup" has written in its place, below --data-dir. No daemon may run with that. All of
FILE is read and checked first: with an error nothing has changed.

Data go with the keys of their cluster, so restore these first where they are gone. When the daemon
starts, nodes tell what they run, and what came after the backup is put right: what Git has is
made so, and no pod that Git wants restarts.`,
		Example: `  lockstep restore /mnt/safe/keys
  lockstep restore /mnt/safe/today --identity /root/age.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			identities, err := readIdentities(identity)
			if err != nil {
				return err
			}
			said, err := restore(args[0], dirs, identities, replace)
			if err != nil {
				return fmt.Errorf("cannot restore %s: %w", args[0], err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
			return err
		}}
	dirs.add(c)
	c.Flags().BoolVar(&replace, "replace", false, "replace data or keys that are there; they are kept beside")
	c.Flags().StringVar(&identity, "identity", "", "`FILE` with the age key of a recipient, where the backup is encrypted")
	return c
}

func readIdentities(path string) ([]age.Identity, error) {
	if path == "" {
		return nil, nil
	}
	if err := readable("identity", path, false); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unusable("identity", path, err)
	}
	defer f.Close()
	ids, err := backup.Identities(f)
	return ids, unusable("identity", path, err)
}

// errData says that a backup is of data.
var errData = errors.New("it is a backup of data")

// restore says what it has restored, and where what was there is kept.
func restore(path string, dirs dirFlags, identities []age.Identity, replace bool) (said string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	vault := pki.Dir(filepath.Join(dirs.data, "pki"))
	head, err := backup.Read(f, identities, nil, func(a backup.About) error {
		if a.Keys {
			return nil
		}
		return errData
	})
	if errors.Is(err, errData) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		return restoreData(f, filepath.Join(dirs.data, "etcd"), vault, identities, replace)
	}
	if err != nil {
		return "", err
	}
	kept := string(vault) + ".before-" + time.Now().UTC().Format("20060102T150405Z")
	if err := vault.Restore(head.Keys, replace, kept); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w (--replace replaces them, and keeps what is there beside)", err)
		}
		return "", err
	}
	return fmt.Sprintf("the keys of %s are restored: %d files in %s", head.About.Made.Format(time.RFC3339), len(head.Keys), vault), nil
}

func restoreData(f io.Reader, dir string, vault pki.Dir, identities []age.Identity, replace bool) (said string, err error) {
	own, err := vault.Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s has no keys of a cluster: restore these first, from a backup with --keys", vault)
	}
	if err != nil {
		return "", err
	}
	var about backup.About
	kept, err := etcd.Restore(dir, replace, func(to *os.File) error {
		contents, err := backup.Read(f, identities, to, func(a backup.About) error {
			if a.Authority != own {
				return fmt.Errorf("it is a backup of another cluster (%q) than the one whose keys are in %s", a.Cluster, vault)
			}
			return nil
		})
		about = contents.About
		if err == nil && contents.Bytes == 0 {
			err = backup.ErrDamaged
		}
		return err
	})
	if errors.Is(err, etcd.ErrData) {
		err = fmt.Errorf("%w (--replace replaces them, and keeps what is there beside)", err)
	}
	if err != nil {
		return "", err
	}
	said = fmt.Sprintf("the data of %s are restored, revision %d, written by lockstep %s", about.Made.Format(time.RFC3339),
		about.Revision, about.Version)
	if kept != "" {
		said += "; what was there is kept in " + filepath.Join(dir, kept)
	}
	return said, nil
}
