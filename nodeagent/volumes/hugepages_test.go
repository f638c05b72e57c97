package volumes

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// asking is a pod whose container requests huge pages of these sizes, with a volume of a medium.
func asking(medium corev1.StorageMedium, sizes ...string) *corev1.Pod {
	pod := testPod(corev1.Volume{Name: "pages", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}})
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{}
	for _, size := range sizes {
		pod.Spec.Containers[0].Resources.Requests[corev1.ResourceName("hugepages-"+size)] = resource.MustParse(size)
	}
	return pod
}

// TestPageSize: which huge pages a volume is made of, and the kubelet's words where that cannot be said.
func TestPageSize(t *testing.T) {
	whole := asking("HugePages")
	whole.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"hugepages-1Gi": resource.MustParse("1Gi")}}
	const unasked = "hugePages storage requested, but there is no resource request for huge pages"
	for _, c := range []struct {
		pod  *corev1.Pod
		want int64
		err  string
	}{
		{asking("HugePages", "2Mi"), 2 << 20, ""},
		{asking("HugePages-1Gi", "2Mi", "1Gi"), 1 << 30, ""},
		{asking("HugePages-2048Ki", "2Mi", "1Gi"), 2 << 20, ""},
		{whole, 1 << 30, ""},
		{asking("HugePages", "2Mi", "1Gi"), 0, "medium: HugePages can't be used if container requests multiple huge page sizes"},
		{asking("HugePages"), 0, "medium HugePages: " + unasked},
		{asking("HugePages-1Gi", "2Mi"), 0, "medium HugePages-1Gi: " + unasked},
		{asking("HugePages-large", "2Mi"), 0, "cannot read the size of medium HugePages-large: "},
	} {
		got, err := pageSize(c.pod, c.pod.Spec.Volumes[0].EmptyDir.Medium)
		if text := ""; err != nil {
			if text = err.Error(); c.err == "" || !strings.HasPrefix(text, c.err) {
				t.Errorf("%s: %v, want %q", c.pod.Spec.Volumes[0].EmptyDir.Medium, err, c.err)
			}
		} else if got != c.want || c.err != "" {
			t.Errorf("%s: %d, want %d, %q", c.pod.Spec.Volumes[0].EmptyDir.Medium, got, c.want, c.err)
		}
	}
}

// TestHugePages mounts a volume of huge pages, for which the kernel need not have any.
func TestHugePages(t *testing.T) {
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-2048kB")
	systems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if len(sizes) == 0 || !strings.Contains(string(systems), "\thugetlbfs\n") {
		t.Log("the kernel has no huge pages of 2 MiB: a pod that wants them fails with the mount")
	}
	ctx, m := context.Background(), newManager(t)
	pod := asking("HugePages-2Mi", "2Mi")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(2000))}
	for range 2 {
		mounted, err := m.Setup(ctx, pod, testCluster().sources())
		if len(sizes) == 0 {
			if err == nil {
				t.Error("mounted what the kernel has not")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(mounted["pages"].HostPath, &st); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(mounted["pages"].HostPath)
		if err != nil {
			t.Fatal(err)
		}
		if st.Type != unix.HUGETLBFS_MAGIC || st.Bsize != 2<<20 || info.Mode() != fs.ModeDir|fs.ModeSetgid|0o777 ||
			info.Sys().(*syscall.Stat_t).Gid != 2000 {
			t.Errorf("type %x, pages of %d bytes, mode %v, %+v", st.Type, st.Bsize, info.Mode(), info.Sys())
		}
	}
	if err := m.Teardown(ctx, pod.UID); err != nil {
		t.Error(err)
	}
}
