// Package early runs the log keeper before the rest of the program's packages initialise.
package early

import (
	"os"

	"lockstep/nodeagent/logs/keeper"
)

// Go initialises, among the packages whose imports are ready, the one whose path sorts first. This package needs
// little of the standard library and nothing else, so it is ready, and run, before net/http, and with it the
// Kubernetes libraries and containerd's client, whose tables alone would be several times the keeper's own memory.
// The main package imports it for this effect; nobody else should, and it must not import more.
func init() {
	if len(os.Args) > 1 && os.Args[1] == keeper.Command {
		os.Exit(keeper.Main(os.Args[2:]))
	}
}
