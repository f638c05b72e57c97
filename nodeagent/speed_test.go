package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"lockstep/nodeagent/baseline"
	"lockstep/nodeagent/runtime"
)

// BenchmarkPods compares pods bound in the store until Ready in the API with
// the same containers and CNI ADDs by the client libraries alone, alternating.
func BenchmarkPods(b *testing.B) {
	for _, n := range []int{1, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkPods(b, n) })
	}
}

func benchmarkPods(b *testing.B, n int) {
	l := newLab(b)
	l.start()
	l.ready()
	l.bind("first", corev1.PodSpec{Containers: []corev1.Container{shell("main", forever)}})
	l.running("first") // the image is unpacked now
	rt, err := runtime.Open(runtime.Options{Address: l.opts.Containerd, Node: "baseline"})
	if err != nil {
		b.Fatal(err)
	}
	defer rt.Close()
	dir := filepath.Join(l.dir, "raw")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	raw := baseline.Options{
		Client: rt.Client(), Namespace: "baseline", Image: busybox, Snapshotter: "overlayfs",
		Command: []string{"sh", "-c", forever},
		Dir:     dir, BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}, Subnet: "10.66.0.0/24",
	}
	ctx := namespaces.WithNamespace(b.Context(), "baseline")
	if _, err := rt.Client().NamespaceService().Labels(ctx, "baseline"); err != nil {
		_ = rt.Client().NamespaceService().Create(ctx, "baseline", nil)
	}
	f, err := os.Open(filepath.Join(l.opts.ImagesDir, "busybox.tar"))
	if err != nil {
		b.Fatal(err)
	}
	imgs, err := rt.Client().Import(ctx, f, client.WithIndexName("unused"))
	f.Close()
	if err != nil {
		b.Fatal(err)
	}
	if err := client.NewImage(rt.Client(), imgs[len(imgs)-1]).Unpack(ctx, "overlayfs"); err != nil {
		b.Fatal(err)
	}
	defer func() {
		for _, img := range imgs {
			_ = rt.Client().ImageService().Delete(ctx, img.Name)
		}
	}()
	var theirs, ours []float64
	for i := range b.N {
		took, end, err := baseline.Start(b.Context(), raw, n)
		if err != nil {
			b.Fatal(err)
		}
		if err := end(); err != nil {
			b.Fatal(err)
		}
		theirs = append(theirs, took.Seconds())
		began := time.Now()
		for j := range n {
			l.bind(fmt.Sprintf("p%d-%d", i, j), corev1.PodSpec{
				TerminationGracePeriodSeconds: new(int64(1)),
				Containers:                    []corev1.Container{shell("main", forever)},
			})
		}
		for j := range n {
			l.running(fmt.Sprintf("p%d-%d", i, j))
		}
		ours = append(ours, time.Since(began).Seconds())
		b.Logf("%d pods: the libraries alone %s, ready pods %.3fs", n, took, ours[i])
		for j := range n {
			l.remove(fmt.Sprintf("p%d-%d", i, j))
		}
		for j := range n {
			l.gone(fmt.Sprintf("p%d-%d", i, j))
		}
	}
	sort.Float64s(theirs)
	sort.Float64s(ours)
	b.ReportMetric(theirs[len(theirs)/2]*1000, "raw-ms")
	b.ReportMetric(ours[len(ours)/2]*1000, "pods-ms")
	b.ReportMetric(ours[len(ours)/2]/theirs[len(theirs)/2], "ratio")
}
