// Command lockstep is a container orchestrator whose only write API is Git.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // of CronJobs, on machines that have none

	"lockstep/daemon/command"
	_ "lockstep/nodeagent/dns/names/early"   // runs the names process before the large packages initialise
	_ "lockstep/nodeagent/logs/keeper/early" // as it runs the log keeper
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command.Run(ctx, os.Args[1:])
	os.Exit(command.Tell(os.Stderr, err))
}
