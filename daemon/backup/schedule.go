package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstep/internal/sleep"
	"lockstep/internal/whole"
)

const (
	// suffix ends the names of scheduled backups, unready those that are being written: what has it is removed at the next one.
	suffix, unready = ".lockstep", ".lockstep.unready"
	// stamp is the time in a name, which sorts as time does.
	stamp = "20060102T150405Z"
	// retry is the pause after a backup that failed.
	retry = time.Minute
	// takeTimeout bounds one backup: two gigabytes onto a slow disk.
	takeTimeout = 30 * time.Minute
	// DefaultEvery and DefaultKeep are what a schedule has that does not say.
	DefaultEvery, DefaultKeep = 6 * time.Hour, 28
)

// Schedule is where backups go, how often, and how many are kept.
type Schedule struct {
	// Dir has them; empty: there are none. It is made with mode 0700.
	Dir string
	// Every is the time between two. Zero: DefaultEvery.
	Every time.Duration
	// Keep is how many there are at most: those before go, the oldest first. Zero: DefaultKeep.
	Keep int
	// Recipients they are encrypted to, as Recipients reads them; none: they are not.
	Recipients []string
}

// Validate says what is wrong with a schedule.
func (s Schedule) Validate() error {
	_, err := Recipients(s.Recipients)
	switch {
	case s.Dir == "" && (s.Every != 0 || s.Keep != 0 || len(s.Recipients) > 0):
		return errors.New("cannot make backups: no folder is named for them")
	case s.Dir != "" && !filepath.IsAbs(s.Dir):
		return fmt.Errorf("cannot make backups in %q: want an absolute path", s.Dir)
	case s.Every != 0 && s.Every < time.Minute:
		return fmt.Errorf("cannot make backups every %s: a minute is the least", s.Every)
	case s.Keep < 0:
		return fmt.Errorf("cannot keep %d backups", s.Keep)
	}
	return err
}

// Scheduler makes backups.
type Scheduler struct {
	schedule Schedule
	cluster  string
	take     func(context.Context, io.Writer) error
	log      *slog.Logger
	now      func() time.Time
	metrics  *metrics

	mu     sync.Mutex
	failed error
	since  time.Time // when the first of those failed that no good one followed
	last   time.Time // when the last good one was made
}

type metrics struct {
	last, bytes, seconds prometheus.Gauge
	total                *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "lockstep", Subsystem: "backup", Name: name, Help: help})
	}
	m := &metrics{
		last:  gauge("last_success_timestamp_seconds", "When the last scheduled backup was made; 0: none is known."),
		bytes: gauge("last_bytes", "Size of the last scheduled backup."), seconds: gauge("last_seconds", "How long it took."),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "lockstep", Subsystem: "backup", Name: "total",
			Help: "Scheduled backups, by result."}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.last, m.bytes, m.seconds, m.total)
	}
	return m
}

// NewScheduler returns a scheduler, which starts nothing, of the cluster of a name. Take writes one backup.
func NewScheduler(s Schedule, cluster string, take func(context.Context, io.Writer) error, reg prometheus.Registerer,
	log *slog.Logger) *Scheduler {
	s.Every, s.Keep = cmp.Or(s.Every, DefaultEvery), cmp.Or(s.Keep, DefaultKeep)
	return &Scheduler{schedule: s, cluster: cluster, take: take, log: log, now: time.Now, metrics: newMetrics(reg)}
}

// Failure says in one line that backups fail, and since when; empty: they do not.
func (s *Scheduler) Failure() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		return ""
	}
	last := "there is none"
	if !s.last.IsZero() {
		last = "the last one is of " + s.last.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("backups fail since %s, %s: %v", s.since.UTC().Format(time.RFC3339), last, s.failed)
}

// Run makes backups until ctx ends; then it returns nil. The first is due as long after the newest that is there as all others are.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.schedule.Dir == "" {
		<-ctx.Done()
		return nil
	}
	names, _ := s.names() // that it cannot be read is told when one is made
	if len(names) > 0 {
		if at, err := s.madeAt(names[len(names)-1]); err == nil {
			s.last = at
			s.metrics.last.Set(float64(at.Unix()))
		}
	}
	for due := s.last.Add(s.schedule.Every); ctx.Err() == nil; {
		if wait := due.Sub(s.now()); wait > 0 {
			sleep.For(ctx, min(wait, time.Minute)) // the clock may be set meanwhile
			continue
		}
		began := s.now()
		err := s.once(ctx, began)
		if ctx.Err() != nil {
			return nil
		}
		if s.note(began, err); err != nil {
			due = s.now().Add(min(retry, s.schedule.Every))
		} else {
			due = began.Add(s.schedule.Every)
		}
	}
	return nil
}

func (s *Scheduler) note(began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.failed == nil {
			s.since = began
			s.log.Error("cannot make a backup, it is tried again every minute", "dir", s.schedule.Dir, "error", err)
		}
		s.failed = err
		s.metrics.total.WithLabelValues("error").Inc()
		return
	}
	s.failed, s.last = nil, began
	s.metrics.last.Set(float64(began.Unix()))
	s.metrics.seconds.Set(s.now().Sub(began).Seconds())
	s.metrics.total.WithLabelValues("ok").Inc()
}

// once makes one backup, and removes those that are too many then.
func (s *Scheduler) once(ctx context.Context, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	if err := os.MkdirAll(s.schedule.Dir, 0o700); err != nil {
		return err
	}
	left, _ := filepath.Glob(filepath.Join(s.schedule.Dir, "*"+unready))
	for _, path := range left { // of a process that was killed
		_ = os.Remove(path)
	}
	path := filepath.Join(s.schedule.Dir, s.cluster+"-"+at.UTC().Format(stamp)+suffix)
	size, err := WriteFile(path, false, func(to io.Writer) error { return s.take(ctx, to) })
	if err != nil {
		return err
	}
	s.metrics.bytes.Set(float64(size))
	s.log.Info("a backup is made", "file", path, "bytes", size)
	names, err := s.names()
	for err == nil && len(names) > s.schedule.Keep {
		err = os.Remove(filepath.Join(s.schedule.Dir, names[0]))
		names = names[1:]
	}
	if err != nil {
		return fmt.Errorf("cannot remove backups that are too many: %w", err)
	}
	return nil
}

// names are the scheduled backups of the cluster that are there, the oldest first. Files of other names are not ours.
func (s *Scheduler) names() (out []string, err error) {
	files, err := os.ReadDir(s.schedule.Dir)
	for _, f := range files {
		if _, err := s.madeAt(f.Name()); err == nil && f.Type().IsRegular() {
			out = append(out, f.Name())
		}
	}
	slices.Sort(out)
	return out, err
}

func (s *Scheduler) madeAt(name string) (time.Time, error) {
	text, ours := strings.CutPrefix(name, s.cluster+"-")
	if !ours || !strings.HasSuffix(text, suffix) {
		return time.Time{}, errors.New("another file")
	}
	return time.Parse(stamp, strings.TrimSuffix(text, suffix))
}

// WriteFile writes a file whole or not at all, with mode 0600, and returns its size. One that is there is an error, unless it is to be
// replaced.
func WriteFile(path string, replace bool, write func(io.Writer) error) (size int64, err error) {
	if _, err := os.Lstat(path); err == nil && !replace {
		return 0, fmt.Errorf("%s is there already", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*"+unready)
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) // once it has its name there is none of this one
	sized := &counting{to: f}
	err = write(sized)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, err
	}
	return sized.n, whole.Sync(filepath.Dir(path))
}
