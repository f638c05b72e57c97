// Package early runs the names process before the rest of the program's packages initialise.
package early

import (
	"os"

	"lockstep/nodeagent/dns/names"
)

// As of the log keeper's package early: what this one imports is ready before net/http, and what needs that. The main
// package imports it for this effect; nobody else should, and it must not import more.
func init() {
	if len(os.Args) > 1 && os.Args[1] == names.Command {
		os.Exit(names.Main(os.Args[2:]))
	}
}
