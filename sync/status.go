package sync

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/internal/giturl"
	"lockstep/internal/plain"
	"lockstep/kinds"
	"lockstep/kinds/v1alpha1"
	"lockstep/store"
	"lockstep/store/view"
	"lockstep/sync/apply"
	"lockstep/sync/forge"
	"lockstep/sync/health"
)

// countsEvery is the least time between two writes of a status of which only the counts have changed.
const countsEvery = time.Second

// forgeEvery is how often it is looked at whether the forge has taken what waits for it.
const forgeEvery = 2 * time.Second

func statuses(n int) string {
	if n == 1 {
		return "1 commit status waits for the forge"
	}
	return fmt.Sprintf("%d commit statuses wait for the forge", n)
}

// statusWriter keeps the Source object in the store as the driver knows it.
type statusWriter struct {
	driver  *driver
	written time.Time
	took    time.Duration // of the last pass
	ended   time.Time
}

// told is what the status tells: the verdict on the newest revision, and what the accepted one has lost.
type told struct {
	verdict     forge.State
	text, drift string
}

func (w *statusWriter) write(ctx context.Context, state apply.State, roll health.Roll, t told, next *later) error {
	d := w.driver
	now := d.sync.opts.Now()
	live, exists := view.Get[*v1alpha1.Source](d.sync.opts.Store.View(), "", d.source.Name)
	if !exists {
		live = &v1alpha1.Source{}
	}
	want := live.DeepCopy()
	want.Name = d.source.Name
	want.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"}
	want.Spec = shown(d.source.Spec)
	status := v1alpha1.SourceStatus{
		Accepted: state.Accepted, Applied: state.Applied, FetchError: plain.Text(d.fetchErr),
		Objects: int32(roll.Total), Healthy: int32(roll.Healthy), Since: live.Status.Since, Seen: live.Status.Seen,
		Drift: forge.Cut(t.drift),
	}
	if waiting, why := d.outbox.Waiting(d.source.Name); waiting > 0 {
		next.at(now.Add(forgeEvery))
		if why != "" {
			status.ForgeError = statuses(waiting) + ": " + shorten(plain.Text(why), 300)
		}
	}
	d.sync.metrics.objects.WithLabelValues(d.source.Name, "all").Set(float64(roll.Total))
	d.sync.metrics.objects.WithLabelValues(d.source.Name, "healthy").Set(float64(roll.Healthy))
	switch {
	case d.seen != nil && (d.decided || len(d.refusal) > 0 || d.doubt.pending()):
		status.Seen, status.State, status.Message = d.seen.ID, string(t.verdict), forge.Cut(t.text)
		for _, e := range d.refusal[:min(len(d.refusal), maxErrors)] {
			status.Errors = append(status.Errors, plain.Text(e))
		}
	case d.seen == nil && state.Accepted != "" && live.Status.State != string(forge.Error):
		status.Seen, status.State, status.Message = state.Accepted, string(t.verdict), forge.Cut(t.text)
	default: // nothing is known beyond what an earlier leader wrote
		status.State, status.Message, status.Errors = live.Status.State, live.Status.Message, live.Status.Errors
	}
	if status.State != live.Status.State || status.Seen != live.Status.Seen {
		status.Since = metav1.NewTime(now.Truncate(time.Second))
	}
	want.Status = status
	same := reflect.DeepEqual(want.Spec, live.Spec) && statusEqual(status, live.Status)
	if exists && same {
		return nil
	}
	if at := w.written.Add(countsEvery); exists && countsOnly(status, live.Status) && now.Before(at) {
		next.at(at)
		return nil
	}
	revision := int64(0)
	if exists {
		revision, _ = strconv.ParseInt(live.ResourceVersion, 10, 64)
	}
	r := d.commit.Commit(ctx, store.Group{{Key: kinds.KeyOf(want), Object: want, If: revision, Reason: "status"}})[0]
	if errors.Is(r.Err, store.ErrConflict) {
		next.at(now.Add(passGap))
		return nil
	}
	if r.Err != nil {
		return fmt.Errorf("cannot write the status of source %s: %w", d.source.Name, r.Err)
	}
	w.written = now
	_, err := d.sync.opts.Store.Wait(ctx, r.Revision)
	return err
}

func statusEqual(a, b v1alpha1.SourceStatus) bool {
	if !a.Since.Equal(&b.Since) || len(a.Errors) != len(b.Errors) {
		return false
	}
	for i := range a.Errors {
		if a.Errors[i] != b.Errors[i] {
			return false
		}
	}
	a.Since, b.Since, a.Errors, b.Errors = metav1.Time{}, metav1.Time{}, nil, nil
	return reflect.DeepEqual(a, b)
}

// countsOnly says that two statuses differ only in what a rollout changes all the time.
func countsOnly(a, b v1alpha1.SourceStatus) bool {
	if a.State != b.State || (a.Drift == "") != (b.Drift == "") {
		return false
	}
	a.Healthy, a.Message, a.Objects, a.Drift = b.Healthy, b.Message, b.Objects, b.Drift
	return statusEqual(a, b)
}

// shown is a specification as it may be read by viewers: without credentials in the URLs.
func shown(spec v1alpha1.SourceSpec) v1alpha1.SourceSpec {
	spec.URL = giturl.Redact(spec.URL)
	if spec.Forge != nil {
		f := *spec.Forge
		f.URL, spec.Forge = giturl.Redact(f.URL), &f
	}
	return spec
}
