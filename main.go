// Command lockstep is a container orchestrator whose only write API is Git.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"lockstep/daemon/command"
	_ "lockstep/nodeagent/logs/keeper/early" // runs the log keeper before the large packages initialise
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command.Run(ctx, os.Args[1:])
	os.Exit(command.Tell(os.Stderr, err))
}
