package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// slice is how long it rests at a time: short beside the second in which a load is spread.
const slice = 20 * time.Millisecond

// share burns the share of a load that falls to one of those who have it together, the addresses of a headless service.
func share(ctx context.Context, file, name string) error {
	for ctx.Err() == nil {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		load, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			return fmt.Errorf("cannot read a load from %s: %w", file, err)
		}
		lookup, cancel := context.WithTimeout(ctx, time.Second)
		addresses, _ := net.DefaultResolver.LookupHost(lookup, name) // before it is known by it, it is alone
		cancel()
		burn(ctx, time.Duration(load/max(1, len(addresses)))*time.Millisecond)
	}
	return nil
}

// burn spreads an amount of CPU time over the next second.
func burn(ctx context.Context, amount time.Duration) {
	begun, before := time.Now(), burnt()
	for ctx.Err() == nil {
		passed := time.Since(begun)
		if passed >= time.Second {
			return
		}
		if due := time.Duration(float64(amount) * passed.Seconds()); burnt()-before >= due {
			time.Sleep(slice)
		}
	}
}

// burnt is the CPU time that the process has had.
func burnt() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
