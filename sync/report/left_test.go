package report

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

// TestLeftOver: what a set that is gone or smaller has left, what a claim that is gone has, and nothing that somebody asks for.
func TestLeftOver(t *testing.T) {
	size := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
	}
	claim := func(name, volume string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		c.Spec.VolumeName, c.Spec.Resources.Requests = volume, size("1Gi")
		for _, f := range change {
			f(c)
		}
		return c
	}
	pv := func(name, of string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{kinds.LocalPathNode: "n1"},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": kinds.LocalPath}}}
		v.Spec.Capacity, v.Spec.PersistentVolumeReclaimPolicy = size("2Gi"), corev1.PersistentVolumeReclaimRetain
		v.Spec.ClaimRef, v.Status.Phase = &corev1.ObjectReference{Namespace: "shop", Name: of}, phase
		return v
	}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
	set.Spec.Replicas, set.Spec.VolumeClaimTemplates = new(int32(1)), []corev1.PersistentVolumeClaim{*claim("data", "")}
	ephemeral := func(c *corev1.PersistentVolumeClaim) {
		c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Controller: new(true)}}
	}
	goes := func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }
	told := pv("told", "old", corev1.VolumeReleased)
	told.Status.Message = "waiting"
	v := view.Of(set, claim("data-db-0", "a"), claim("data-db-1", "b"), claim("data-gone-0", ""), claim("mine", "c"),
		claim("pod-scratch", "d", ephemeral), claim("goes", "e", goes),
		pv("b", "data-db-1", corev1.VolumeBound), told, pv("kept", "old", corev1.VolumeReleased))
	stated := func(_ *view.View, k kinds.Key) bool { return k.Name == "mine" }
	var got []string
	for _, l := range LeftOver(v, stated) {
		got = append(got, fmt.Sprintf("%s, %s, %s: %s", l.Key, l.Size, l.Node, l.Why))
	}
	want := []string{
		"PersistentVolumeClaim shop/data-db-1, 2Gi, n1: StatefulSet shop/db has no replica 1 any more",
		"PersistentVolumeClaim shop/data-gone-0, 1Gi, : no manifest states it, and no StatefulSet has it; it has no volume",
		"PersistentVolume kept, 2Gi, n1: its claim shop/old is gone, its policy is Retain",
		"PersistentVolume told, 2Gi, n1: its claim shop/old is gone, its policy is Retain; waiting",
	}
	if !slices.Equal(got, want) {
		t.Errorf("left over:\n%q\nwant:\n%q", got, want)
	}
}
