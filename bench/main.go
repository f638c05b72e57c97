// Command bench measures Lockstep against bounds that it takes in the same run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

func main() {
	isolate()
	o, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		err = bench(ctx, o)
		stop()
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say what to measure.
type options struct {
	run *regexp.Regexp
	// quick takes small sizes and one round each: whether everything works, not how fast it is.
	quick bool
	// lockstep is the program that is measured.
	lockstep string
	// results is the file that takes the figures.
	results string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	run := flags.String("run", "", "measure only what matches this regular expression")
	flags.BoolVar(&o.quick, "quick", false, "small sizes, one round: whether it works, not how fast it is")
	flags.StringVar(&o.lockstep, "lockstep", "bin/lockstep", "the program to measure")
	flags.StringVar(&o.results, "o", "bench/results.json", "where the figures go")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.run, err = regexp.Compile(*run); err != nil {
		return o, fmt.Errorf("cannot use -run: %w", err)
	}
	for _, path := range []*string{&o.lockstep, &o.results} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, fmt.Errorf("cannot find %s: %w", *path, err)
		}
	}
	if _, err := os.Stat(o.lockstep); err != nil {
		return o, fmt.Errorf("cannot find the program to measure (make build makes it): %w", err)
	}
	return o, nil
}

// benchmark measures one thing, on a node that the benchmarks before it have left without pods.
type benchmark struct {
	name    string
	measure func(context.Context, *node) ([]Row, error)
}

// benchmarks are all of them. Those that want a quiet machine come first.
func benchmarks() []benchmark {
	return []benchmark{
		{"up", up},
		{"start", startOne},
		{"claim", startClaimed},
		{"pods", startMany},
		{"job", runJob},
		{"stats", statistics},
		{"probed", probed},
		{"folder", folderChange},
		{"push", pushChange},
		{"services", services},
		{"packet", firstPacket},
		{"store", bigStore},
		{"sealed", sealing},
		{"scheduler", schedule},
		{"preemption", preempt},
		{"workloads", workloads},
		{"size", size},
	}
}

func bench(ctx context.Context, o options) (err error) {
	n, err := newNode(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	var rows []Row
	for _, b := range benchmarks() {
		if !o.run.MatchString(b.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", b.name)
		more, err := b.measure(ctx, n)
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", b.name, err)
		}
		rows = append(rows, more...)
		if err := save(o.results, rows); err != nil {
			return err
		}
	}
	return table(os.Stdout, rows)
}
