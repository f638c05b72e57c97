package pods

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestOveruse(t *testing.T) {
	limited := func(name, limit string) corev1.Container {
		c := corev1.Container{Name: name}
		if limit != "" {
			c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(limit)}
		}
		return c
	}
	empty := func(name, limit string, medium corev1.StorageMedium) corev1.Volume {
		source := &corev1.EmptyDirVolumeSource{Medium: medium}
		if limit != "" {
			q := resource.MustParse(limit)
			source.SizeLimit = &q
		}
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: source}}
	}
	two := []corev1.Container{limited("a", "1Ki"), limited("b", "1Ki")}
	for name, c := range map[string]struct {
		spec   corev1.PodSpec
		used   Storage
		limits bool
		want   string
	}{
		"no limits": {corev1.PodSpec{Containers: []corev1.Container{limited("a", "")}, Volumes: []corev1.Volume{empty("v", "", "")}},
			Storage{Volumes: map[string]int64{"v": 1 << 40}, Containers: map[string]int64{"a": 1 << 40}}, false, ""},
		"memory volume": {corev1.PodSpec{
			Containers: []corev1.Container{limited("a", "")},
			Volumes:    []corev1.Volume{empty("v", "1Ki", corev1.StorageMediumMemory)},
		},
			Storage{Volumes: map[string]int64{"v": 1 << 40}}, false, ""},
		"volume at its limit": {corev1.PodSpec{
			Containers: []corev1.Container{limited("a", "")},
			Volumes:    []corev1.Volume{empty("v", "1Ki", "")},
		},
			Storage{Volumes: map[string]int64{"v": 1024}}, true, ""},
		"volume over": {corev1.PodSpec{Containers: []corev1.Container{limited("a", "")}, Volumes: []corev1.Volume{empty("v", "1Ki", "")}},
			Storage{Volumes: map[string]int64{"v": 1025}}, true, `Usage of EmptyDir volume "v" exceeds the limit "1Ki". `},
		"pod over": {corev1.PodSpec{Containers: two, Volumes: []corev1.Volume{empty("v", "", "")}},
			Storage{Volumes: map[string]int64{"v": 1025}, Containers: map[string]int64{"a": 512, "b": 512}}, true,
			"Pod ephemeral local storage usage exceeds the total limit of containers 2Ki. "},
		"far from over": {corev1.PodSpec{
			Containers: []corev1.Container{limited("a", "10E")},
			Volumes:    []corev1.Volume{empty("v", "10E", "")},
		},
			Storage{Volumes: map[string]int64{"v": 1}, Containers: map[string]int64{"a": 1}}, true, ""},
		"container over": {corev1.PodSpec{Containers: two}, Storage{Containers: map[string]int64{"a": 0, "b": 1025}}, true,
			`Container b exceeded its local ephemeral storage limit "1Ki". `},
	} {
		pod := &corev1.Pod{Spec: c.spec}
		if got := LimitsStorage(pod); got != c.limits {
			t.Errorf("%s: LimitsStorage = %t, want %t", name, got, c.limits)
		}
		if got := Overuse(pod, c.used); got != c.want {
			t.Errorf("%s: Overuse = %q, want %q", name, got, c.want)
		}
	}
}
