package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// requestTimeout bounds a look at etcd.
	requestTimeout = 5 * time.Second
	// defragTimeout bounds rewriting one file of some gigabytes; the server answers nobody meanwhile.
	defragTimeout = 2 * time.Minute
)

// metrics are the Prometheus metrics of the maintenance.
type metrics struct {
	size, used, quota *prometheus.GaugeVec
	noSpace           prometheus.Gauge
	steps             *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauges := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "lockstep", Subsystem: "etcd", Name: name, Help: help},
			[]string{"endpoint"})
	}
	m := &metrics{
		size:  gauges("db_size_bytes", "Size of the database file."),
		used:  gauges("db_used_bytes", "Bytes of the database file in use."),
		quota: gauges("db_quota_bytes", "Size at which etcd refuses writes."),
		noSpace: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "lockstep", Subsystem: "etcd", Name: "nospace", Help: "1 while etcd's NOSPACE alarm is raised.",
		}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "lockstep", Subsystem: "etcd", Name: "maintenance_total", Help: "Maintenance steps, by kind and outcome.",
		}, []string{"step", "result"}),
	}
	if reg != nil {
		reg.MustRegister(m.size, m.used, m.quota, m.noSpace, m.steps)
	}
	return m
}

// Run compacts, defragments and frees a full etcd until ctx ends; then it returns nil. It returns an error where the
// embedded server stops by itself.
func (e *Etcd) Run(ctx context.Context) error {
	if e.disk == nil {
		return e.maintain(ctx, nil)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	maintained, watched := make(chan error, 1), make(chan error, 1)
	go func() { maintained <- e.maintain(ctx, changed) }()
	go func() { watched <- e.watchDisk(ctx, changed) }()
	select {
	case err := <-maintained:
		cancel()
		return errors.Join(err, <-watched)
	case err := <-watched:
		cancel()
		if e.Dead() {
			return err // who asked etcd something stands still with it
		}
		return errors.Join(err, <-maintained)
	}
}

// watchDisk looks at the disk, and has the process start again when etcd could not write it, until ctx ends.
func (e *Etcd) watchDisk(ctx context.Context, changed chan<- struct{}) error {
	t := time.NewTicker(diskEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.disk.broke:
			return e.comeUpAgain(ctx)
		case <-t.C:
			if e.disk.look() {
				select {
				case changed <- struct{}{}:
				default: // it is to be looked at already
				}
			}
		}
	}
}

// maintain looks after etcd in its periods, and when the disk has changed.
func (e *Etcd) maintain(ctx context.Context, changed <-chan struct{}) error {
	var failed <-chan error
	var stopped <-chan struct{}
	if e.server != nil {
		failed, stopped = e.server.Err(), e.server.Server.StopNotify()
	}
	check := time.NewTicker(e.opts.CheckEvery)
	defer check.Stop()
	compact := time.NewTicker(e.opts.CompactEvery)
	defer compact.Stop()
	k := &keeper{etcd: e, defragAt: map[string]time.Time{}}
	if e.disk != nil && e.disk.isShort() {
		k.log(ctx, "cannot look after etcd", k.check(ctx))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("the embedded etcd has failed: %w", err)
		case <-stopped:
			return ErrStopped
		case <-compact.C:
			k.log(ctx, "cannot compact etcd", k.compactOld(ctx))
		case <-changed:
			k.log(ctx, "cannot look after etcd", k.check(ctx))
		case <-check.C:
			k.log(ctx, "cannot look after etcd", k.check(ctx))
		}
	}
}

// keeper is what the maintenance remembers between checks.
type keeper struct {
	etcd     *Etcd
	defragAt map[string]time.Time
	full     bool
	done     remedy // for the alarm that is raised
	failing  bool
}

// log tells of the first failure in a row.
func (k *keeper) log(ctx context.Context, message string, err error) {
	if err != nil && !k.failing && ctx.Err() == nil {
		k.etcd.opts.Log.Warn(message, "error", err)
	}
	k.failing = err != nil
}

// check looks at all members and does what decide says, until it says nothing more.
func (k *keeper) check(ctx context.Context) error {
	k.done = untreated
	for range 4 { // compact, defragment, disarm, and the look after it
		members, err := k.look(ctx)
		if err != nil {
			return err
		}
		p := decide(members, time.Now(), k.done)
		if p.idle() {
			return nil
		}
		if err := k.act(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) look(ctx context.Context) ([]member, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var members []member
	full := false
	for _, endpoint := range k.etcd.dialled.Endpoints() {
		s, err := k.etcd.Client.Status(ctx, endpoint)
		if err != nil {
			return nil, fmt.Errorf("cannot read the state of %s: %w", endpoint, err)
		}
		m := member{
			endpoint: endpoint, id: s.Header.MemberId, short: k.etcd.disk != nil && k.etcd.disk.isShort(),
			size: s.DbSize, used: s.DbSizeInUse, quota: s.DbSizeQuota, defragAt: k.defragAt[endpoint],
		}
		// The status names all members' alarms, as text only; it needs no proposal as listing them does.
		for _, text := range s.Errors {
			m.noSpace = m.noSpace || strings.Contains(text, etcdserverpb.AlarmType_NOSPACE.String())
		}
		full = full || m.noSpace
		k.etcd.metrics.size.WithLabelValues(endpoint).Set(float64(m.size))
		k.etcd.metrics.used.WithLabelValues(endpoint).Set(float64(m.used))
		k.etcd.metrics.quota.WithLabelValues(endpoint).Set(float64(m.quota))
		members = append(members, m)
	}
	if full != k.full {
		k.full = full
		if full {
			k.etcd.metrics.noSpace.Set(1)
			k.etcd.opts.Log.Error("etcd is full (NOSPACE): it takes no writes until space is freed", "members", len(members))
		} else {
			k.etcd.metrics.noSpace.Set(0)
			k.etcd.opts.Log.Info("etcd has space again")
		}
	}
	return members, nil
}

func (k *keeper) act(ctx context.Context, p plan) error {
	if p.raise != 0 {
		k.etcd.opts.Log.Warn("raising etcd's alarm: it takes no changes", "reason", p.reason)
		return k.count("raise", k.raise(ctx, p.raise))
	}
	if p.compactNow {
		if err := k.count("compact", k.compactAll(ctx)); err != nil {
			return err
		}
		k.done = compacted
	}
	for _, endpoint := range p.defrag {
		k.etcd.opts.Log.Info("defragmenting etcd", "endpoint", endpoint, "reason", p.reason)
		if err := k.count("defragment", k.defragment(ctx, endpoint)); err != nil {
			return err
		}
	}
	if len(p.defrag) > 0 {
		k.done = defragmented
	}
	if p.disarm {
		k.etcd.opts.Log.Info("lifting etcd's alarm", "reason", p.reason)
		return k.count("disarm", k.disarm(ctx))
	}
	return nil
}

func (k *keeper) count(step string, err error) error {
	result := "ok"
	if err != nil {
		result = "error"
	}
	k.etcd.metrics.steps.WithLabelValues(step, result).Inc()
	return err
}

func (k *keeper) defragment(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, defragTimeout)
	defer cancel()
	k.defragAt[endpoint] = time.Now()
	if _, err := k.etcd.Client.Defragment(ctx, endpoint); err != nil {
		return fmt.Errorf("cannot defragment %s: %w", endpoint, err)
	}
	return nil
}

// raise has etcd refuse writes before its disk does. The client has no method for it.
func (k *keeper) raise(ctx context.Context, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := etcdserverpb.NewMaintenanceClient(k.etcd.dialled.ActiveConnection()).Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: etcdserverpb.AlarmType_NOSPACE,
	})
	if err != nil {
		return fmt.Errorf("cannot raise etcd's alarm: %w", err)
	}
	return nil
}

func (k *keeper) disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	alarms, err := k.etcd.Client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("cannot list etcd's alarms: %w", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := k.etcd.Client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("cannot lift etcd's alarm: %w", err)
		}
	}
	return nil
}

// compactAll drops all history.
func (k *keeper) compactAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, defragTimeout)
	defer cancel()
	resp, err := k.etcd.Client.Get(ctx, k.key(), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("cannot read etcd's revision: %w", err)
	}
	return k.compactTo(ctx, resp.Header.Revision)
}

// compactOld drops the history before the last round, by whichever server had it: the key holds that round's revision,
// and who replaces it first has this one.
func (k *keeper) compactOld(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, defragTimeout)
	defer cancel()
	resp, err := k.etcd.Client.Get(ctx, k.key())
	if err != nil {
		return fmt.Errorf("cannot read the last compaction: %w", err)
	}
	var had, last int64
	if len(resp.Kvs) > 0 {
		had = resp.Kvs[0].ModRevision
		var at time.Time
		if last, at, err = parseRound(resp.Kvs[0].Value); err == nil && time.Since(at) < k.etcd.opts.CompactEvery/2 {
			return nil // another server's round
		}
	}
	round := formatRound(resp.Header.Revision, time.Now())
	took, err := k.etcd.Client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(k.key()), "=", had)).
		Then(clientv3.OpPut(k.key(), round)).Commit()
	if err != nil {
		return fmt.Errorf("cannot begin a compaction: %w", err)
	}
	if !took.Succeeded || last == 0 {
		return nil
	}
	return k.count("compact", k.compactTo(ctx, last))
}

func (k *keeper) key() string { return k.etcd.opts.Prefix + "compaction" }

func (k *keeper) compactTo(ctx context.Context, rev int64) error {
	_, err := k.etcd.Client.Compact(ctx, rev, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("cannot compact etcd to revision %d: %w", rev, err)
	}
	return nil
}

// formatRound and parseRound write and read the compaction key: a revision and the Unix second of it.
func formatRound(rev int64, at time.Time) string {
	return strconv.FormatInt(rev, 10) + " " + strconv.FormatInt(at.Unix(), 10)
}

func parseRound(value []byte) (rev int64, at time.Time, err error) {
	var sec int64
	if _, err := fmt.Sscan(string(value), &rev, &sec); err != nil {
		return 0, time.Time{}, fmt.Errorf("cannot read the compaction key: %w", err)
	}
	return rev, time.Unix(sec, 0), nil
}
