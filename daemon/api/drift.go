package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"lockstep/daemon/provenance"
	"lockstep/daemon/rights"
	"lockstep/kinds"
	"lockstep/kinds/drift"
	"lockstep/store/view"
	"lockstep/sync/found"
)

// maxDrift bounds a report of drift: as many findings as a log keeps, with all their texts.
const maxDrift = 512 << 10

// DriftList answers GET /lockstep/v1/drift.
type DriftList struct {
	// Findings are the newest first.
	Findings []drift.Finding `json:"findings"`
	// Dropped counts those of all nodes and sources that are kept no longer.
	Dropped int64 `json:"dropped,omitempty"`
}

// readDrift answers with what was found: of all, or of the source and the node that are named.
func (s *server) readDrift(w http.ResponseWriter, r *http.Request) {
	var out DriftList
	q := r.URL.Query()
	out.Findings, out.Dropped = found.In(s.hub.View(), found.Filter{Source: q.Get("source"), Node: q.Get("node")})
	data, err := json.Marshal(out)
	if err != nil {
		s.fail(w, r, apierrors.NewInternalError(err))
		return
	}
	writeJSON(w, data)
}

// takeDrift keeps what a node has found, each with where its object comes from.
func (s *server) takeDrift(w http.ResponseWriter, r *http.Request) {
	var report drift.Report
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(min(joinBody, s.opts.RequestTimeout)))
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxDrift))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		s.fail(w, r, apierrors.NewBadRequest("cannot read the report of drift: "+err.Error()))
		return
	}
	self, v := identityOf(r.Context()).Node, s.hub.View()
	if err := driftOf(self, &report, v); err != nil {
		s.fail(w, r, err)
		return
	}
	origins := provenance.New() // reports are rare, and it would remember what is gone
	for i := range report.Findings {
		trace(&report.Findings[i], v, origins)
	}
	if _, err := s.drift.Add(r.Context(), found.OfNode(self), report.Findings, report.Dropped); err != nil {
		s.fail(w, r, unavailable(err))
		return
	}
	writeJSON(w, []byte("{}"))
}

// driftOf says what is wrong with a node's report; nil: nothing. A node tells of itself and of its pods, those too that are gone.
func driftOf(self string, report *drift.Report, v *view.View) error {
	if len(report.Findings) > drift.MaxFindings {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("a report has at most %d findings", drift.MaxFindings))
	}
	for i := range report.Findings {
		f := &report.Findings[i]
		switch {
		case !slices.Contains(drift.OfNodes(), f.Kind):
			return apierrors.NewBadRequest(fmt.Sprintf("findings[%d].kind: a node finds none of kind %q", i, f.Kind))
		case f.ID == "" || f.What == "" || f.Noticed.IsZero():
			return apierrors.NewBadRequest(fmt.Sprintf("findings[%d]: want id, what and noticed", i))
		case f.Node != self:
			return apierrors.NewForbidden(kinds.For[*corev1.Node]().GroupResource(), f.Node,
				fmt.Errorf("node %s tells only of itself", self))
		}
		f.Source, f.Commit, f.File, f.Author, f.Number = "", "", "", "", 0
		f.Object = "Node " + self
		if f.Pod == nil {
			continue
		}
		f.Object = "Pod " + f.Pod.String()
		p, ok := view.Get[*corev1.Pod](v, f.Pod.Namespace, f.Pod.Name)
		if ok && p.UID == f.Pod.UID && p.Spec.NodeName != self {
			return apierrors.NewForbidden(kinds.For[*corev1.Pod]().GroupResource(), f.Pod.String(),
				fmt.Errorf("it is not bound to node %s", self))
		}
	}
	return nil
}

// trace adds where the pod of a finding, or the nearest owner that was declared, comes from.
func trace(f *drift.Finding, v *view.View, origins *provenance.Finder) {
	if f.Pod == nil {
		return
	}
	p, ok := view.Get[*corev1.Pod](v, f.Pod.Namespace, f.Pod.Name)
	if !ok || p.UID != f.Pod.UID {
		return
	}
	if o, ok := origins.Of(v, p); ok {
		f.Source, f.Commit, f.File, f.Author = o.Source, o.Commit, o.Place(), o.Author
	}
}

// drifts are the handlers of what differs though nobody pushed.
func (s *server) drifts(mux *http.ServeMux) {
	mux.HandleFunc("GET "+rights.DriftPath, s.readDrift)
	mux.HandleFunc("POST "+rights.DriftPath, s.takeDrift)
}
