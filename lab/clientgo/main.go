// Command clientgo is what people write with client-go for a pod: it watches what it may.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/rest"
)

const usage = `clientgo watch PORT RESOURCE…   answer on the port with what informers have of the resources, each GROUP/VERSION/RESOURCE,
                                of the pod's namespace, or by which words they were refused them`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "clientgo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return err
	}
	if len(args) < 3 || args[0] != "watch" {
		return errors.New(usage)
	}
	return watch(ctx, config, string(namespace), args[1], args[2:])
}
