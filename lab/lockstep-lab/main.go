// Command lockstep-lab makes and breaks clusters of several hosts on one machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lockstep/lab/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command.Run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lockstep-lab:", err)
		os.Exit(command.ExitCode(err))
	}
}
