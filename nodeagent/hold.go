package nodeagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lockstep/internal/whole"
)

// hold makes the agent's directory this process's until it is closed or the process ends: two agents would undo each
// other's work, and Reset an agent's.
func (o Options) hold() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(o.agentDir(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot use %s: another agent runs with it", o.agentDir()), f.Close())
	}
	return f, nil
}

// LastContainerd is what Options.Containerd was when the agent of a data directory last ran; empty if it never did. Its
// containers are there and nowhere else.
func LastContainerd(dataDir string) (string, error) {
	o, err := Options{DataDir: dataDir}.recall()
	return o.Containerd, err
}

// whereabouts are the options that say where a node leaves what Reset removes.
type whereabouts struct {
	NodeName, RunDir, LogDir, KubeletDir, Containerd, Snapshotter, CNIConfDir string
	CNIBinDirs                                                                []string
}

const whereaboutsFile = "whereabouts.json"

func (o Options) keepWhereabouts() error {
	data, err := json.Marshal(whereabouts{o.NodeName, o.RunDir, o.LogDir, o.KubeletDir,
		o.Containerd, o.Snapshotter, o.CNIConfDir, o.CNIBinDirs})
	if err == nil {
		err = errors.Join(whole.Write(filepath.Join(o.agentDir(), whereaboutsFile), data),
			whole.Write(filepath.Join(o.RunDir, dataDirFile), []byte(o.DataDir)))
	}
	if err != nil {
		return fmt.Errorf("cannot keep what a reset must know: %w", err)
	}
	return nil
}

// recall fills in what is not stated as the agent of the data directory was last run. Without one it changes nothing.
func (o Options) recall() (Options, error) {
	if o.DataDir == "" {
		o.DataDir = DefaultDataDir
	}
	data, err := os.ReadFile(filepath.Join(o.agentDir(), whereaboutsFile))
	if errors.Is(err, os.ErrNotExist) {
		return o, nil
	}
	var t whereabouts
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		return o, fmt.Errorf("cannot read how the node was run: %w", err)
	}
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&o.NodeName, t.NodeName}, {&o.RunDir, t.RunDir}, {&o.LogDir, t.LogDir}, {&o.KubeletDir, t.KubeletDir},
		{&o.Containerd, t.Containerd}, {&o.Snapshotter, t.Snapshotter}, {&o.CNIConfDir, t.CNIConfDir},
	} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	if len(o.CNIBinDirs) == 0 {
		o.CNIBinDirs = t.CNIBinDirs
	}
	return o, nil
}
