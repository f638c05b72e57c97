package strategy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"

	"lockstep/kinds"
)

// TestReadingChangesNothing: what the view has is shared, by many pods of one template too, so neither its table, nor its deletion,
// nor being what an update is compared with may change it, or what it points to.
func TestReadingChangesNothing(t *testing.T) {
	filler := randfill.NewWithSeed(5).NilChance(0.2).NumElements(0, 3).MaxDepth(9).Funcs(
		func(raw *runtime.RawExtension, _ randfill.Continue) { raw.Raw = []byte("{}") })
	for _, kind := range kinds.All {
		for range 30 {
			o := kind.New()
			filler.Fill(o)
			if s, ok := o.(*corev1.Secret); ok {
				s.StringData = nil // no stored one has it
			}
			o.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
			Default(o)
			before := o.DeepCopyObject().(kinds.Object)
			for name, read := range map[string]func(){
				"Table":         func() { _, _ = Table(kind, []kinds.Object{o}, &metav1.TableOptions{}) },
				"Delete":        func() { _, _ = Delete(o, time.Unix(1700000000, 0), nil) },
				"PrepareUpdate": func() { PrepareUpdate(o.DeepCopyObject().(kinds.Object), o) },
				"PrepareStatus": func() {
					if kind.Status {
						PrepareStatus(o.DeepCopyObject().(kinds.Object), o)
					}
				},
				"ShownEvent": func() {
					if e, ok := o.(*corev1.Event); ok {
						StoredEvent(ShownEvent(e))
					}
				},
			} {
				read()
				if diff := cmp.Diff(before, o, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("%s of a %s has changed it:\n%s", name, kind.Kind, diff)
				}
			}
		}
	}
}
