package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// TestLibrariesAreQuiet has a server whose watches end at once, and whatever else Kubernetes' libraries complain of: nothing
// of it is on standard error, in our log it is debug lines.
func TestLibrariesAreQuiet(t *testing.T) {
	for level, wanted := range map[string]bool{"info": false, "debug": true} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.Stderr
		os.Stderr = write
		lines := &bytes.Buffer{}
		if _, err := (&logFlags{level: level, format: "text"}).logger(t.Context(), lines); err != nil {
			t.Fatal(err)
		}
		watches := make(chan struct{}, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			short := &cache.ListWatch{
				ListFunc: func(metav1.ListOptions) (runtime.Object, error) { return &corev1.PodList{}, nil },
				WatchFunc: func(metav1.ListOptions) (watch.Interface, error) {
					watches <- struct{}{}
					w := watch.NewFake()
					w.Stop()
					return w, nil
				},
			}
			cache.NewSharedInformer(short, &corev1.Pod{}, 0).Run(ctx.Done())
		}()
		for range 3 {
			select {
			case <-watches:
			case <-time.After(30 * time.Second):
				t.Fatal("no watch")
			}
		}
		cancel()
		<-done
		klog.Warning("one")
		klog.ErrorS(errors.New("why"), "two")
		klog.FromContext(context.Background()).Info("three")
		utilruntime.HandleError(errors.New("four"))
		klog.Flush()
		os.Stderr = stderr
		write.Close()
		if text, err := io.ReadAll(read); err != nil || len(text) > 0 {
			t.Errorf("%s: on standard error: %q, %v", level, text, err)
		}
		for _, word := range []string{"watch ended with error", "one", "two", "three", "four"} {
			if got := strings.Contains(lines.String(), word); got != wanted {
				t.Errorf("%s: %q is in the log: %v\n%s", level, word, got, lines)
			}
		}
		if n := strings.Count(lines.String(), "\n"); strings.Count(lines.String(), "level=DEBUG") != n {
			t.Errorf("%s: not all lines are debug lines:\n%s", level, lines)
		}
	}
}
