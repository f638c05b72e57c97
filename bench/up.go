package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// up measures a cluster without pods: how soon it is there, and what it costs while nothing happens.
func up(ctx context.Context, n *node) ([]Row, error) {
	var readyz []float64
	ready, err := repeat(ctx, n.times(10), func(ctx context.Context) (_ float64, err error) {
		c, err := n.launch()
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, c.down()) }()
		if err := c.connect(ctx); err != nil {
			return 0, err
		}
		readyz = append(readyz, time.Since(c.began).Seconds())
		err = c.ready(ctx)
		return time.Since(c.began).Seconds(), err
	})
	if err != nil {
		return nil, err
	}
	c, err := n.start(ctx)
	if err != nil {
		return nil, err
	}
	memory, cores, err := c.idle(ctx, time.Duration(n.size(settling, 0))*time.Second, time.Duration(n.size(60, 1))*time.Second)
	if err := errors.Join(err, c.down()); err != nil {
		return nil, err
	}
	return []Row{
		plain("lockstep up, start to /readyz", "s", median(readyz)),
		below("lockstep up, start to /readyz and Node Ready", "s", ready, 2),
		below("lockstep up, no pods, resident", "MiB", memory, 150),
		below("lockstep up, no pods, CPU over a minute", "% of a core", 100*cores, 2),
	}, nil
}

// settling is how many seconds a start's own work may go on after the node is Ready.
const settling = 5

// idle watches the cluster's processes while nothing happens: the most MiB that they were seen to have resident
// together, and the part of a core that they used.
func (c *cluster) idle(ctx context.Context, wait, length time.Duration) (memory, cores float64, err error) {
	time.Sleep(wait)
	before, _, err := c.usage()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	after := before
	for time.Since(began) < length && err == nil {
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(time.Second):
		}
		var resident float64
		after, resident, err = c.usage()
		memory = max(memory, resident)
	}
	return memory, (after - before) / time.Since(began).Seconds(), err
}

const (
	ticksPerSecond = 100 // of /proc/PID/stat, on every Linux
	mib            = 1 << 20
)

// usage sums the seconds of CPU time and the resident MiB of all processes of lockstep: the log keeper is one of its own.
func (c *cluster) usage() (seconds, memory float64, err error) {
	programs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return 0, 0, err
	}
	found := false
	for _, program := range programs {
		if target, err := os.Readlink(program); err != nil || target != c.node.lockstep {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(program), "stat"))
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		numbers := map[int]float64{}
		for _, field := range []int{11, 12, 21} { // utime, stime and rss; the first field here is the third of proc(5)
			if numbers[field], err = strconv.ParseFloat(fields[field], 64); err != nil {
				return 0, 0, fmt.Errorf("cannot read %s: %w", program, err)
			}
		}
		seconds += (numbers[11] + numbers[12]) / ticksPerSecond
		memory += numbers[21] * float64(os.Getpagesize()) / mib
		found = true
	}
	if !found {
		return 0, 0, fmt.Errorf("cannot find processes of %s", c.node.lockstep)
	}
	return seconds, memory, nil
}
