package main

import (
	"context"
	"slices"
	"time"
)

// measurement does its work once and says how many seconds of it count: what it must do before and after does not.
type measurement func(ctx context.Context) (float64, error)

// alternate measures two things in turns, so that what else happens on the machine meets both, and returns their
// medians.
func alternate(ctx context.Context, rounds int, a, b measurement) (float64, float64, error) {
	var as, bs []float64
	for range rounds {
		v, err := a(ctx)
		if err != nil {
			return 0, 0, err
		}
		as = append(as, v)
		if v, err = b(ctx); err != nil {
			return 0, 0, err
		}
		bs = append(bs, v)
	}
	return median(as), median(bs), nil
}

// repeat measures one thing several times and returns the median.
func repeat(ctx context.Context, rounds int, a measurement) (float64, error) {
	var as []float64
	for range rounds {
		v, err := a(ctx)
		if err != nil {
			return 0, err
		}
		as = append(as, v)
	}
	return median(as), nil
}

func median(values []float64) float64 {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// timed measures f from its beginning to its end.
func timed(f func(ctx context.Context) error) measurement {
	return func(ctx context.Context) (float64, error) {
		began := time.Now()
		err := f(ctx)
		return time.Since(began).Seconds(), err
	}
}
