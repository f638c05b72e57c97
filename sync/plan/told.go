package plan

import (
	"bytes"
	"encoding/json"
	"fmt"

	"lockstep/kinds/v1alpha1"
	"lockstep/store/view"
)

// driftOf is what an object's manifest says is done about its drift; empty: nothing.
func driftOf(stated json.RawMessage) string {
	if !bytes.Contains(stated, []byte(v1alpha1.AnnotationDrift)) { // most objects by far
		return ""
	}
	var o struct {
		Metadata struct{ Annotations map[string]string }
	}
	if json.Unmarshal(stated, &o) != nil {
		return ""
	}
	return o.Metadata.Annotations[v1alpha1.AnnotationDrift]
}

// onlyTold says that drift of an entry is told and not put right.
func onlyTold(d Desired, v *view.View) bool {
	switch driftOf(d.Object) {
	case v1alpha1.DriftReport:
		return true
	case v1alpha1.DriftRepair:
		return false
	}
	source, ok := view.Get[*v1alpha1.Source](v, "", d.Source)
	return ok && source.Spec.Drift == v1alpha1.DriftReport
}

// driftProblem is what is wrong with what an object says of its drift; empty: nothing.
func driftProblem(stated json.RawMessage) string {
	switch d := driftOf(stated); d {
	case "", v1alpha1.DriftReport, v1alpha1.DriftRepair:
		return ""
	default:
		return fmt.Sprintf("metadata.annotations: %s: want repair or report, got %q", v1alpha1.AnnotationDrift, d)
	}
}
