package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/util/parsers"

	"lockstep/kinds"
	"lockstep/reconcilers/loop"
)

// missed says how many times went by without a job.
type missed int

const (
	none missed = iota
	few
	many // more than 100, as Kubernetes draws the line
)

// padding is added to the next look, so that clocks which differ a little do not find the time not come: Kubernetes'
// nextScheduleDelta.
const padding = 100 * time.Millisecond

// unknownTimeZone is the reason of the event about it, which is told of a suspended cron job, too.
const unknownTimeZone = "UnknownTimeZone"

// scheduleOf reads a cron job's schedule in its time zone, UTC where it states none; what is wrong with it is an event.
func scheduleOf(c *batchv1.CronJob) (s cron.Schedule, zone *time.Location, problem *loop.Event) {
	name := ""
	if c.Spec.TimeZone != nil {
		name = *c.Spec.TimeZone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, nil, &loop.Event{
			Type: corev1.EventTypeWarning, Reason: unknownTimeZone, Message: fmt.Sprintf("invalid timeZone: %q: %s", name, err),
		}
	}
	text := c.Spec.Schedule
	if !strings.Contains(text, "TZ") {
		text = "TZ=" + zone.String() + " " + text
	}
	if s, err = parsers.ParseCronScheduleWithPanicRecovery(text); err != nil {
		return nil, nil, &loop.Event{
			Type: corev1.EventTypeWarning, Reason: "UnparseableSchedule",
			Message: fmt.Sprintf("unparseable schedule: %q : %s", c.Spec.Schedule, err),
		}
	}
	return s, zone, nil
}

// newest returns the newest time that a job was due; zero: none since the last. Within a deadline of so many seconds; nil: none.
func newest(from time.Time, deadline *int64, now time.Time, s cron.Schedule) (due time.Time, m missed, err error) {
	if deadline != nil {
		if bound := now.Add(-kinds.Seconds(*deadline)); bound.After(from) {
			from = bound
		}
	}
	first := s.Next(from)
	second := s.Next(first)
	switch {
	case now.Before(first):
		return time.Time{}, none, nil
	case now.Before(second):
		return first, none, nil
	}
	step := second.Sub(first).Round(time.Second)
	if step < time.Second {
		return time.Time{}, none, errors.New("time difference between two schedules is less than 1 second")
	}
	n := int64(now.Sub(first)/step) + 1
	for at := s.Next(first.Add(time.Duration(n-2) * step)); !at.After(now); at = s.Next(at) {
		due = at
	}
	if n > 100 {
		return due, many, nil
	}
	return due, few, nil
}

// next is when to look again.
func next(from, now time.Time, s cron.Schedule) time.Time {
	due, m, err := newest(from, nil, now, s)
	switch {
	case err != nil, due.IsZero() && m != none:
		due = now
	case due.IsZero():
		due = from
	}
	return s.Next(due).Add(padding)
}
