package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lockstep/nodeagent/cgroup"
	"lockstep/nodeagent/dns/names"
	"lockstep/nodeagent/logs/keeper"
	"lockstep/nodeagent/machine"
	"lockstep/nodeagent/process"
)

// dataDirFile is where the run directory says which data directory goes with it.
const dataDirFile = "data-dir"

// refuseOthers refuses a reset by directories with which no node has run, where one of that name runs with others: what
// it would end is that one's.
func (o Options) refuseOthers() error {
	if _, err := os.Stat(filepath.Join(o.agentDir(), whereaboutsFile)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var dirs []string
	others := false
	for _, path := range []string{machine.Cgroup(o.NodeName), keeperCgroup(o.NodeName), namesCgroup(o.NodeName)} {
		for pid := range cgroup.Processes(path) {
			args := process.Arguments(pid)
			companion := len(args) >= 3 && (args[1] == keeper.Command || args[1] == names.Command)
			if companion && args[2] == o.RunDir && process.SeesSame(pid, o.RunDir) {
				return nil // of a node that never got as far as keeping how it runs
			}
			others = true
			if companion && !slices.Contains(dirs, args[2]) {
				dirs = append(dirs, args[2])
			}
		}
	}
	if !others {
		return nil
	}
	slices.Sort(dirs)
	how := "name those that it was started with, by --data-dir and --run-dir"
	if len(dirs) == 1 {
		data, err := os.ReadFile(filepath.Join(dirs[0], dataDirFile))
		if err != nil {
			data = []byte("FOLDER") // of an earlier release
		}
		how = fmt.Sprintf("its are --data-dir '%s' --run-dir '%s'", strings.TrimSpace(string(data)), dirs[0])
	}
	return fmt.Errorf("node %s does not run with %s and %s, and nothing is touched: %s", o.NodeName, o.DataDir, o.RunDir, how)
}
