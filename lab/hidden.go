package lab

import (
	"fmt"
	"slices"
	"strings"
)

// Hidden returns what the program does when it was run by a lab as one of the lab's own processes, or nil.
func Hidden(args []string) func() error {
	if len(args) == 0 {
		return nil
	}
	runs := map[string]func([]string) error{
		holderArg: RunHolder, hubArg: RunHub, forwardArg: RunForward, pushArg: RunPush, pushedArg: RunPushed,
	}
	run, ok := runs[args[0]]
	if !ok {
		return nil
	}
	return func() error { return run(args[1:]) }
}

// ServiceSummary lists the host's services, each with its process id or "stopped".
func (h *Host) ServiceSummary() string {
	var out []string
	for _, name := range h.serviceNames() {
		if pid := h.PID(name); pid != 0 {
			out = append(out, fmt.Sprintf("%s (%d)", name, pid))
		} else {
			out = append(out, name+" (stopped)")
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
