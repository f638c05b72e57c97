package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/evanphx/json-patch.v4"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"lockstep/kinds"
)

const (
	// maxReport bounds what a node stores of itself or of a pod's status: a node that lists 50 images, and a pod of a
	// hundred containers, take some tens of kilobytes.
	maxReport = 512 << 10
	// maxNote bounds an event, a lease, or the options of a deletion; an event's message is Kubernetes' 1 KiB.
	maxNote = 8 << 10
	// maxPatch bounds a patch: merging lists by key costs the square of their length.
	maxPatch = 256 << 10
	// maxURI bounds a request's address in bytes, selectors included, which are parsed before anybody is known: a megabyte of
	// them took two seconds. What stands between clients and servers rarely takes more than 8 KiB.
	maxURI = 32 << 10
	// maxOperations of a JSON patch; an agent needs none, a person's script a few.
	maxOperations = 100
	// maxReview bounds the question in a review, and an event before its message is cut.
	maxReview = 64 << 10
)

// What Kubernetes takes of an event (its validation of events.k8s.io/v1), in bytes.
const (
	maxMessage = 1024
	maxWord    = 128 // reason, action, reporting instance
	maxName    = 253 // of the component, as of objects
)

func init() {
	// The library's own default is no limit: each copy operation of a patch may double what it is applied to.
	jsonpatch.AccumulatedCopySizeLimit = maxReport
}

// measured is how many bytes of an object its writer has written, as they are stored.
func measured(o kinds.Object) int {
	switch o := o.(type) {
	case *corev1.Pod:
		return o.Status.Size()
	case interface{ Size() int }:
		return o.Size()
	default:
		return 0
	}
}

// fits refuses what makes an object larger than its writer may.
func (c *change) fits(new, old kinds.Object) error {
	is, was := measured(new), 0
	if old != nil {
		was = measured(old)
	}
	if is <= c.size || is <= was {
		return nil
	}
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%d bytes of %s, and one may have %d", is, c.kind.Resource, c.size))
}

// bodies bounds what a request may bring, beyond the bound of the handler's own.
func (c *change) bodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPatch {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(min(c.body, maxPatch))))
		if err != nil {
			c.fail(w, r, apierrors.NewRequestEntityTooLargeError("cannot read the patch: "+err.Error()))
			return
		}
		if strings.HasPrefix(r.Header.Get("Content-Type"), string(types.JSONPatchType)) {
			if n := operations(body); n > maxOperations {
				why := fmt.Sprintf("the patch has %d operations, and may have %d", n, maxOperations)
				c.fail(w, r, apierrors.NewRequestEntityTooLargeError(why))
				return
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// operations counts those of a JSON patch; what cannot be read has none, and is refused by its handler.
func operations(patch []byte) int {
	var list []json.RawMessage
	_ = json.Unmarshal(patch, &list)
	return len(list)
}

// honest puts right what may be stated wrongly without ill will: texts that are too long, and times that have not come. A
// heartbeat from the future would keep a dead node alive, an event stand on every page as the newest; what a program's lease
// says is for other programs, which compare it with what they have read before.
func honest(o kinds.Object, now time.Time) error {
	switch o := o.(type) {
	case *corev1.Event:
		return boundEvent(o, now)
	case *coordinationv1.Lease:
		if o.Namespace == corev1.NamespaceNodeLease && o.Spec.RenewTime != nil {
			past(now, &o.Spec.RenewTime.Time)
		}
	case *corev1.Node:
		for i := range o.Status.Conditions {
			past(now, &o.Status.Conditions[i].LastHeartbeatTime.Time)
		}
	}
	return nil
}

// boundEvent cuts an event's message, and refuses other texts that Kubernetes would refuse.
func boundEvent(e *corev1.Event, now time.Time) error {
	e.Message = cut(e.Message, maxMessage)
	var errs field.ErrorList
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"reason", e.Reason, maxWord}, {"action", e.Action, maxWord}, {"reportingInstance", e.ReportingInstance, maxWord},
		{"reportingComponent", e.ReportingController, maxName}, {"source.component", e.Source.Component, maxName},
		{"involvedObject.fieldPath", e.InvolvedObject.FieldPath, maxMessage},
	} {
		if len(f.value) > f.most {
			errs = append(errs, field.TooLong(field.NewPath(f.name), "", f.most))
		}
	}
	past(now, &e.FirstTimestamp.Time, &e.LastTimestamp.Time, &e.EventTime.Time)
	if e.Series != nil {
		past(now, &e.Series.LastObservedTime.Time)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Event").GroupKind(), e.Name, errs)
	}
	return nil
}

// cut shortens a text to so many bytes, at the border of a character, and shows it.
func cut(s string, most int) string {
	const mark = "..."
	if len(s) <= most {
		return s
	}
	end := most - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// past replaces times that a node's clock has ahead of ours by ours.
func past(now time.Time, times ...*time.Time) {
	for _, t := range times {
		if t.After(now) {
			*t = now
		}
	}
}
