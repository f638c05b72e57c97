package pod_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"lockstep/internal/eventually"
	"lockstep/internal/short"
	"lockstep/kinds/podstatus"
	"lockstep/nodeagent/pod/conformance"
	"lockstep/nodeagent/pod/hollow"
	"lockstep/nodeagent/pods"
	"lockstep/nodeagent/runtime"
	"lockstep/nodeagent/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHollow holds the hollow machine to what pods rely on.
func TestHollow(t *testing.T) {
	m := hollow.NewMachine(t.TempDir(), func(string) {})
	m.Lose("missing:1", true)
	conformance.Run(t, conformance.Subject{Machine: m.Parts(), Facts: spec.Node{MaxOpenFiles: 1024}, Image: "there:1", Missing: "missing:1",
		Forever: []string{"/forever"}, True: []string{"/true"}, Absent: []string{"/absent"}, Break: m.Break,
		RunDir: t.TempDir(), LogDir: t.TempDir(), Cgroup: "/conformance"})
	if left := m.Left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// world is a hollow node that runs.
type world struct {
	*hollow.Node
	t    testing.TB
	dir  string
	stop func()
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.start(nil)
	return w
}

// start runs a node on a machine until the test ends or stop is called.
func (w *world) start(m *hollow.Machine) {
	w.Node = hollow.NewNode(w.dir, m, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.t.Cleanup(w.stop)
}

func (w *world) until(what string, f func() error) {
	w.t.Helper()
	eventually.Nil(w.t, 60*time.Second, what, f)
}

func object(name string, containers ...string) *corev1.Pod {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways}}
	for _, c := range containers {
		o.Spec.Containers = append(o.Spec.Containers, corev1.Container{Name: c, Image: c + ":1", Command: []string{"/" + c}})
	}
	return o
}

func (w *world) ready(name string) {
	w.t.Helper()
	w.until(name+" is ready", func() error {
		if s := w.Status(types.UID(name)); !podstatus.Ready(&s) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// waits waits until a container waits for that reason.
func (w *world) waits(name, reason string) {
	w.t.Helper()
	w.until(name+" waits: "+reason, func() error {
		s := w.Status(types.UID(name))
		for _, c := range s.ContainerStatuses {
			if c.State.Waiting != nil && c.State.Waiting.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.ContainerStatuses)
	})
}

func (w *world) gone(name string) {
	w.t.Helper()
	w.until(name+" is gone", func() error {
		if w.Pod(types.UID(name)) != nil {
			return fmt.Errorf("%+v", w.Status(types.UID(name)))
		}
		return nil
	})
}

// clean wants nothing of any pod left, on the machine and on the disk.
func (w *world) clean() {
	w.t.Helper()
	if left := w.Machine.Left(); len(left) > 0 {
		w.t.Errorf("left: %v", left)
	}
	w.until("no file is left", func() error { // the records go last, after the pod
		for _, pattern := range []string{"records/*", "run/pods/*", "logs/*"} {
			if files, _ := filepath.Glob(filepath.Join(w.dir, pattern)); len(files) > 0 {
				return fmt.Errorf("left: %v", files)
			}
		}
		return nil
	})
}

func (w *world) told(event string) bool {
	return slices.ContainsFunc(w.Machine.Events(), func(e string) bool { return strings.HasPrefix(e, event) })
}

// TestDeletedWhileMade deletes a pod whose container has its record and no process yet: it is not taken for one that has
// ended, by whoever looks, and is stopped when it has been made.
func TestDeletedWhileMade(t *testing.T) {
	w := newWorld(t)
	held, release := make(chan string, 1), make(chan struct{})
	w.Machine.Hold(func(id string) {
		held <- id
		<-release
	})
	w.Bind(object("web", "a"))
	id := <-held
	w.Unbind("web", time.Second)
	for range 3 {
		if err := w.Pod("web").Settle(t.Context(), id); err != nil { // as the stop and the relist do
			t.Error(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if w.Pod("web") == nil {
		t.Error("it is gone before its container")
	}
	close(release)
	w.gone("web")
	if remains := w.Machine.Remains(); len(remains) > 0 {
		t.Errorf("remains were ended of %v", remains)
	}
	w.clean()
}

// TestPodRunsAndEnds has a pod with all that a loop does: init containers, hooks, a shared PID namespace.
func TestPodRunsAndEnds(t *testing.T) {
	w := newWorld(t)
	o := object("web", "main", "side")
	shares := true
	o.Spec.ShareProcessNamespace = &shares
	o.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "init:1", Command: []string{"/init"}}}
	command := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/hook"}}}
	o.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: command, PreStop: command}
	w.Bind(o)
	w.until("the init container runs", func() error {
		c, ok := w.Machine.Running()["web/init"]
		if !ok {
			return fmt.Errorf("%v", w.Machine.Running())
		}
		if len(w.Machine.Running()) != 2 { // and the one that holds the PID namespace
			t.Errorf("beside the init container runs: %v", w.Machine.Running())
		}
		w.Machine.End(c.ID, 0)
		return nil
	})
	w.ready("web")
	s := w.Status("web")
	if len(s.ContainerStatuses) != 2 || s.PodIP == "" || s.HostIP != "192.0.2.1" || s.InitContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status %+v", s)
	}
	w.Unbind("web", time.Minute)
	w.gone("web")
	w.clean()
	for _, event := range []string{"Created: ", "Started: ", "Killing: Stopping container main"} {
		if !w.told(event) {
			t.Errorf("no event %q in %q", event, w.Machine.Events())
		}
	}
}

// TestContainerRestarts has a container end by itself, and then again too soon.
func TestContainerRestarts(t *testing.T) {
	w := newWorld(t)
	w.Bind(object("web", "main", "other"))
	w.ready("web")
	other := w.Machine.Running()["web/other"].ID
	w.Machine.End(w.Machine.Running()["web/main"].ID, 3)
	w.until("it is started again", func() error {
		s := w.Status("web").ContainerStatuses[0]
		if last := s.LastTerminationState.Terminated; s.RestartCount != 1 || s.State.Running == nil || last == nil || last.ExitCode != 3 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	w.Machine.End(w.Machine.Running()["web/main"].ID, 4)
	w.waits("web", "CrashLoopBackOff")
	if now := w.Machine.Running()["web/other"].ID; now != other {
		t.Error("the other container is another one")
	}
	w.Unbind("web", time.Second)
	w.gone("web")
	w.clean()
}

// TestOverruled has somebody else say that a pod is not ready, in the very second since which it is: as is done to the pods of
// a node that is silent. The node says again that it is.
func TestOverruled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Bind(object("web", "main"))
		w.ready("web")
		for range 3 {
			w.Overrule("web", func(s *corev1.PodStatus) { podstatus.Condition(s, corev1.PodReady).Status = corev1.ConditionFalse })
			w.ready("web")
		}
		w.Unbind("web", time.Second)
		w.gone("web")
		w.stop()
	})
}

// TestNodeComesBack has a node end and another one take up its pods: what runs runs on.
func TestNodeComesBack(t *testing.T) {
	w := newWorld(t)
	w.Bind(object("web", "main", "other"))
	w.ready("web")
	before := w.Machine.Running()
	w.stop()
	w.Machine.End(before["web/other"].ID, 1) // nobody is told
	w.start(w.Machine)
	if err := w.Restore(); err != nil {
		t.Fatal(err)
	}
	w.ready("web")
	p := w.Pod("web")
	if p == nil {
		t.Fatal("the pod was not taken up")
	}
	p.Relist(t.Context(), nil, map[string]bool{before["web/main"].ID: true}, time.Now())
	w.until("what has ended meanwhile is started again", func() error {
		for _, s := range w.Status("web").ContainerStatuses {
			if s.Name == "other" && s.RestartCount == 1 && s.State.Running != nil {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.Status("web").ContainerStatuses)
	})
	was, is := before["web/main"], w.Machine.Running()["web/main"]
	if is.ID != was.ID || !is.CreatedAt.Equal(was.CreatedAt) {
		t.Error("a container that ran was made anew")
	}
	w.Unbind("web", time.Second)
	w.gone("web")
	w.clean()
}

// TestRunsOnceOverAReboot has the machine end while a container has just begun to run: the node that comes back, with what the
// disk had then, does not run it a second time.
func TestRunsOnceOverAReboot(t *testing.T) {
	w, disk := newWorld(t), t.TempDir()
	w.Machine.Begin(func(string) {
		if err := os.CopyFS(filepath.Join(disk, "records"), os.DirFS(filepath.Join(w.dir, "records"))); err != nil {
			t.Error(err)
		}
	})
	o := object("once", "main")
	o.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.Bind(o)
	w.ready("once")
	w.stop()
	w = &world{t: t, dir: disk}
	w.start(nil)
	if err := w.Restore(); err != nil {
		t.Fatal(err)
	}
	p := w.Pod("once")
	if p == nil {
		t.Fatal("the pod was not taken up")
	}
	p.Relist(t.Context(), nil, nil, time.Now())
	w.until("it has failed", func() error {
		s := w.Status("once")
		if s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated.Reason != "Unknown" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if running := w.Machine.Running(); len(running) > 0 {
		t.Errorf("it runs: %v", running)
	}
	w.Unbind("once", time.Second)
	w.gone("once")
	w.clean()
}

// TestRunsWhatWasOnlyMade has an agent end between a container's record and its start: the one that comes back starts that
// container, not one after it.
func TestRunsWhatWasOnlyMade(t *testing.T) {
	w := newWorld(t)
	w.Bind(object("web", "main"))
	w.ready("web")
	w.stop()
	machine, made := w.Machine.Parts().Containers, w.Machine.Running()["web/main"]
	if err := machine.Remove(t.Context(), made.ID, true); err != nil {
		t.Fatal(err)
	}
	program := &specs.Spec{Process: &specs.Process{Args: []string{"main"}}}
	made, err := machine.Create(t.Context(), runtime.Request{Container: made, Spec: program})
	if err != nil {
		t.Fatal(err)
	}
	w.start(w.Machine)
	if err := w.Restore(); err != nil {
		t.Fatal(err)
	}
	w.Pod("web").Relist(t.Context(), []runtime.Container{made}, map[string]bool{made.ID: true}, time.Now())
	w.until("what was made runs", func() error {
		runs, s := w.Machine.Running()["web/main"], w.Status("web").ContainerStatuses
		if runs.ID != made.ID || len(s) == 0 || s[0].RestartCount != 0 || s[0].State.Running == nil {
			return fmt.Errorf("%+v, %+v", runs, s)
		}
		return nil
	})
	w.Unbind("web", time.Second)
	w.gone("web")
	w.clean()
}

// TestNewsEndsTheWait has steps fail for want of something, and wait for an hour: nothing but the news that it is there may
// have them tried again.
func TestNewsEndsTheWait(t *testing.T) {
	w := newWorld(t)
	volume, env, pull := object("volume", "main"), object("env", "main"), object("pull", "private")
	late := corev1.LocalObjectReference{Name: "late"}
	volume.Spec.Volumes = []corev1.Volume{{Name: "config",
		VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: late}}}}
	env.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: late}}}
	pull.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "login"}}
	w.Machine.Lose("private:1", true)
	for _, o := range []*corev1.Pod{volume, env, pull} {
		w.Bind(o)
	}
	w.waits("env", "CreateContainerConfigError")
	w.waits("pull", "ErrImagePull")
	for name, key := range map[types.UID]pods.Key{
		"volume": {Kind: pods.Volumes}, "env": {Kind: pods.Start, Of: "main"}, "pull": {Kind: pods.Prepare, Of: "private"},
	} {
		w.until("it has failed", func() error {
			if !w.Pod(name).Delay(key, time.Now().Add(time.Hour)) {
				return fmt.Errorf("no failure of %s", key)
			}
			return nil
		})
	}
	w.Put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "late"}})
	w.ready("volume")
	w.ready("env")
	w.Machine.Lose("private:1", false)
	w.Put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "login"}})
	w.ready("pull")
	for _, event := range []string{"FailedMount: ", "Failed: Error: ", "FailedToRetrieveImagePullSecret: "} {
		if !w.told(event) {
			t.Errorf("no event %q in %q", event, w.Machine.Events())
		}
	}
}

// TestRuntimeClasses has a pod wait for its RuntimeClass, and for one whose handler its node has, and for an hour each time unless
// it hears of it.
func TestRuntimeClasses(t *testing.T) {
	w := newWorld(t)
	o := object("class", "main")
	o.Spec.RuntimeClassName = new("gold")
	w.Bind(o)
	for _, c := range []struct{ handler, told string }{
		{"absent", `failed to get sandbox runtime: RuntimeClass "gold" not found`},
		{"sandboxed", `failed to get sandbox runtime: no runtime for "absent" is configured`},
	} {
		w.until("its sandbox has failed", func() error {
			if !w.Pod("class").Delay(pods.Key{Kind: pods.Setup}, time.Now().Add(time.Hour)) {
				return errors.New("no failure")
			}
			return nil
		})
		if event := "FailedCreatePodSandBox: Failed to create pod sandbox: " + c.told; !w.told(event) {
			t.Errorf("no event %q in %q", event, w.Machine.Events())
		}
		reported, _, _ := w.Pod("class").Status()
		if told := podstatus.Condition(&reported.Status, corev1.PodReadyToStartContainers); told == nil ||
			told.Reason != "FailedCreatePodSandBox" || told.Message != c.told {
			t.Errorf("the status tells %+v", told)
		}
		w.Put(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Handler: c.handler})
	}
	w.ready("class")
	if got := w.Machine.Runtime(w.Machine.Running()["class/main"].ID); got != "io.containerd.sandboxed.v1" {
		t.Errorf("runs by %q", got)
	}
}

// TestStartErrors has a program that cannot be run: what follows is as after an exit with Kubernetes' code.
func TestStartErrors(t *testing.T) {
	w := newWorld(t)
	w.Machine.Break("/main")
	o := object("web", "main")
	o.Spec.RestartPolicy = corev1.RestartPolicyNever
	w.Bind(o)
	w.until("it has failed", func() error {
		s := w.Status("web")
		for _, c := range s.ContainerStatuses {
			if end := c.State.Terminated; s.Phase == corev1.PodFailed && end != nil && end.ExitCode == pods.StartErrorCode {
				return nil
			}
		}
		return fmt.Errorf("%+v", s)
	})
	w.Unbind("web", time.Second)
	w.gone("web")
	w.clean()
}

// TestThousandPods has a node make a thousand pods in ten seconds, and remove them. It takes three on an idle machine; on
// one that is busy with other things the best of three tries counts.
func TestThousandPods(t *testing.T) {
	const bound = 10 * time.Second
	many := int(short.Of(1000))
	for range 3 {
		made, removed := manyPods(t, many)
		t.Logf("%d pods are ready after %s, and gone after %s", many, made.Round(time.Millisecond), removed.Round(time.Millisecond))
		if made < bound {
			return
		}
	}
	t.Errorf("%d pods are not ready within %s", many, bound)
}

func manyPods(t *testing.T, many int) (made, removed time.Duration) {
	t.Helper()
	w := newWorld(t)
	began := time.Now()
	for i := range many {
		w.Bind(object(fmt.Sprint("p", i), "main"))
	}
	w.until("all are ready", func() error {
		if ready, all := w.Ready(); ready != many || all != many {
			return fmt.Errorf("%d of %d", ready, all)
		}
		return nil
	})
	made, began = time.Since(began), time.Now()
	for i := range many {
		w.Unbind(types.UID(fmt.Sprint("p", i)), time.Second)
	}
	w.until("all are gone", func() error {
		if _, all := w.Ready(); all > 0 {
			return fmt.Errorf("%d are left", all)
		}
		return nil
	})
	removed = time.Since(began)
	w.clean()
	w.stop()
	return made, removed
}
