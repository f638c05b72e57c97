// Command csidriver is a CSI driver in a pod, whose volumes are directories of a disk that all hosts of the lab share.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"lockstep/internal/csidriver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "csidriver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o csidriver.Options
	flag.StringVar(&o.Name, "name", "", "`NAME` of the driver")
	flag.StringVar(&o.Node, "node", "", "`NAME` of the node")
	flag.StringVar(&o.Dir, "dir", "", "`FOLDER` on the disk that all share")
	flag.Int64Var(&o.Most, "most", 0, "`N` volumes that the node takes")
	flag.BoolVar(&o.Attach, "attach", false, "have volumes attached before they are mounted")
	flag.BoolVar(&o.Controller, "controller", false, "have the controller service")
	flag.BoolVar(&o.NodeService, "node-service", false, "have the node service")
	socket := flag.String("socket", "/csi/csi.sock", "`FILE` to listen at")
	registration := flag.String("registration", "", "`FILE` to say at what this is, as node-driver-registrar does")
	endpoint := flag.String("endpoint", "", "`FILE` that is the socket as the kubelet sees it")
	flag.Parse()
	d, err := csidriver.New(o)
	if err != nil {
		return err
	}
	l, err := csidriver.Listen(*socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Serve(ctx, l) })
	if *registration != "" {
		at, err := csidriver.Listen(*registration)
		if err != nil {
			return err
		}
		refused := make(chan string, 1)
		r := &csidriver.Registrar{Name: o.Name, Endpoint: *endpoint, Told: func(why string) {
			if why != "" {
				select {
				case refused <- why:
				default:
				}
			}
		}}
		g.Go(func() error { return r.Serve(ctx, at) })
		g.Go(func() error {
			select {
			case <-ctx.Done():
				return nil
			case why := <-refused:
				return errors.New("registration failed: " + why)
			}
		})
	}
	return g.Wait()
}
