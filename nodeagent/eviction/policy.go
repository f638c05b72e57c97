package eviction

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Texts are a policy as a command line states it, in the kubelet's forms: "memory.available<100Mi,nodefs.available<10%"
// for Hard and Soft, "memory.available=1m30s" for SoftGrace and "nodefs.available=500Mi" for MinimumReclaim.
type Texts struct {
	Hard, Soft, SoftGrace, MinimumReclaim string
	MaxPodGrace, Hold                     time.Duration
}

// Default are the kubelet's thresholds for Linux, and one for processes: of those the kubelet has none unless it is told,
// and a node that can start none cannot be helped.
func Default() Texts {
	return Texts{
		Hard: "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%," +
			"pid.available<5%",
		Hold: 5 * time.Minute,
	}
}

// Parse reads a policy. Its errors name the part that is wrong; they have no prefix.
func Parse(t Texts) (Policy, error) {
	p := Policy{Hold: t.Hold, MostGrace: t.MaxPodGrace}
	if t.Hold < 0 || t.MaxPodGrace < 0 {
		return p, fmt.Errorf("a time below zero means nothing")
	}
	hard, err := thresholds(t.Hard)
	if err != nil {
		return p, err
	}
	soft, err := thresholds(t.Soft)
	if err != nil {
		return p, err
	}
	graces := map[Signal]time.Duration{}
	err = pairs(t.SoftGrace, "=", func(signal Signal, value string) error {
		grace, err := time.ParseDuration(value)
		if err == nil && grace <= 0 {
			err = fmt.Errorf("%q is not above zero", value)
		}
		graces[signal] = grace
		return err
	})
	if err != nil {
		return p, err
	}
	for i := range soft {
		grace, ok := graces[soft[i].Signal]
		if !ok {
			return p, fmt.Errorf("grace period must be specified for the soft eviction threshold %s", soft[i].Signal)
		}
		soft[i].Grace = grace
	}
	p.Thresholds = append(hard, soft...)
	err = pairs(t.MinimumReclaim, "=", func(signal Signal, value string) error {
		amount, err := amountOf(value)
		for i := range p.Thresholds {
			if p.Thresholds[i].Signal == signal {
				p.Thresholds[i].Reclaim = amount
			}
		}
		return err
	})
	return p, err
}

func thresholds(text string) (list []Threshold, err error) {
	err = pairs(text, "<", func(signal Signal, value string) error {
		if value == "0%" || value == "100%" {
			return nil // the kubelet's way to have none
		}
		below, err := amountOf(value)
		if err == nil && (below.Part == 0 && (below.Quantity == nil || below.Quantity.Sign() <= 0)) {
			err = fmt.Errorf("eviction threshold %s must be positive: %s", signal, value)
		}
		if slices.ContainsFunc(list, func(t Threshold) bool { return t.Signal == signal }) {
			err = fmt.Errorf("%s is stated twice", signal)
		}
		list = append(list, Threshold{Signal: signal, Below: below})
		return err
	})
	return list, err
}

// pairs reads "SIGNAL<VALUE,SIGNAL<VALUE"; an empty text has none.
func pairs(text, between string, take func(Signal, string) error) error {
	if text == "" {
		return nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), between)
		if !ok {
			return fmt.Errorf("%q is not SIGNAL%sVALUE", pair, between)
		}
		signal := Signal(name)
		if _, _, known := signal.meaning(); !known {
			return fmt.Errorf("unsupported eviction signal %s", name)
		}
		if err := take(signal, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func amountOf(text string) (Amount, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 32)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return Amount{}, fmt.Errorf("%q is no part of a whole", text)
		}
		return Amount{Part: float32(percent) / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err == nil && q.Sign() < 0 {
		err = fmt.Errorf("%q is below zero", text)
	}
	return Amount{Quantity: &q}, err
}
