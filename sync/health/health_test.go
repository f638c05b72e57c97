package health

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lockstep/kinds"
	"lockstep/store/view"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func deploy(change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", UID: "d", Generation: 2},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(3))},
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3}
	for _, f := range change {
		f(d)
	}
	return d
}

func stateful(change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "shop", UID: "db", Generation: 2},
		Spec:       appsv1.StatefulSetSpec{Replicas: new(int32(3))},
	}
	s.Status = appsv1.StatefulSetStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3}
	for _, f := range change {
		f(s)
	}
	return s
}

func scaler(observed int64, conditions ...autoscalingv2.HorizontalPodAutoscalerCondition) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", Generation: 2}}
	h.Status.Conditions = conditions
	if observed > 0 {
		h.Status.ObservedGeneration = &observed
	}
	return h
}

func says(kind, is, reason string, since time.Duration) autoscalingv2.HorizontalPodAutoscalerCondition {
	return autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: autoscalingv2.HorizontalPodAutoscalerConditionType(kind), Status: corev1.ConditionStatus(is), Reason: reason,
		Message: "it is so", LastTransitionTime: metav1.NewTime(now.Add(-since)),
	}
}

func set(name, revision string) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		Name:            name,
		Namespace:       "shop",
		UID:             "rs-" + "x",
		Annotations:     map[string]string{"deployment.kubernetes.io/revision": revision},
		OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "cart", UID: "d", Controller: new(true)}},
	}}
}

func daemonSet(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{
		Name: "cart", Namespace: "shop", UID: "ds", Generation: 2,
		Annotations: map[string]string{"deprecated.daemonset.template.generation": "2"},
	}}
	d.Status = appsv1.DaemonSetStatus{
		ObservedGeneration: 2, DesiredNumberScheduled: 3, CurrentNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberReady: 3,
		NumberAvailable: 3,
	}
	for _, f := range change {
		f(d)
	}
	return d
}

func daemonPod(template string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := podOf(nil, "p", change...)
	p.Labels["pod-template-generation"] = template
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "cart", UID: "ds", Controller: new(true)}}
	return p
}

func rc(want, ready int32) *corev1.ReplicationController {
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", UID: "rc", Generation: 2},
		Spec:       corev1.ReplicationControllerSpec{Replicas: &want},
		Status: corev1.ReplicationControllerStatus{
			ObservedGeneration: 2, Replicas: want, ReadyReplicas: ready, AvailableReplicas: ready,
		},
	}
}

func podOf(rs *appsv1.ReplicaSet, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", Labels: map[string]string{"app": "cart"}}}
	if rs != nil {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: rs.Name, UID: rs.UID, Controller: new(true)}}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func jobOf(succeeded int32, conditions ...batchv1.JobCondition) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: "shop", UID: "j"}}
	j.Spec.Completions = new(int32(5))
	j.Status.Succeeded = succeeded
	for _, c := range conditions {
		c.Status = corev1.ConditionTrue
		j.Status.Conditions = append(j.Status.Conditions, c)
	}
	return j
}

func suspendedJob() *batchv1.Job {
	j := jobOf(1, batchv1.JobCondition{Type: batchv1.JobSuspended})
	j.Spec.Suspend = new(true)
	return j
}

func ofJob(p *corev1.Pod) {
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "sum", UID: "j", Controller: new(true)}}
}

func hasFailed(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }

func waits(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}},
		})
	}
}

// unstarted says that the last container could not be started by its runtime.
func unstarted(p *corev1.Pod) {
	p.Status.ContainerStatuses[len(p.Status.ContainerStatuses)-1].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
		ExitCode: 128, Reason: "StartError",
		Message: "failed to create containerd task: failed to create shim task: OCI runtime create failed: " +
			`runc create failed: unable to start container process: exec: "nosuch": executable file not found in $PATH: unknown`}
}

func waitsFor(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		waits(reason)(p)
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "cart:bad"}}
		p.Status.ContainerStatuses[0].Name, p.Status.ContainerStatuses[0].Image = "c", "docker.io/library/cart:bad"
		p.Status.ContainerStatuses[0].State.Waiting.Message = message
	}
}

// What containerd says of pulls.
const (
	pullFailed = `failed to pull and unpack image "docker.io/library/cart:bad": ` +
		`failed to resolve reference "docker.io/library/cart:bad": docker.io/library/cart:bad: not found`
	dialFailed = `failed to resolve reference "docker.io/library/cart:bad": failed to do request: ` +
		`Head "https://reg.example/v2/library/cart/manifests/bad?ns=docker.io": read tcp 10.0.0.7:51234->10.0.0.9:443: ` +
		`read: connection reset by peer`
	tokenFailed = `failed to resolve reference "docker.io/library/cart:bad": failed to authorize: failed to fetch oauth token: ` +
		`unexpected status from GET request to https://me:s3cret@auth.example/token?account=me&token=s3cret: 401 Unauthorized`
)

func isReady(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func unschedulable(since time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable",
			Message: "0/2 nodes are available: 2 Insufficient cpu.", LastTransitionTime: metav1.NewTime(now.Add(-since))}}
	}
}

// unmounted has a volume that its node cannot mount, since it has the pod.
func unmounted(since time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
			Reason: "FailedMount", Message: `MountVolume.SetUp failed for volume "data" : path "/data" does not exist`,
			LastTransitionTime: metav1.NewTime(now.Add(-since))}}
	}
}

// TestMountError: what is told of a volume is the cause, in the room that a commit status has.
func TestMountError(t *testing.T) {
	for in, want := range map[string]string{
		`MapVolume.MapBlockVolume failed for volume "pv" : stat /dev/x: no such file`: `volume "pv": stat /dev/x: no such file`,
		"Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: " +
			"error processing PVC shop/data: PVC is not bound": "PVC shop/data: PVC is not bound",
		"MountVolume.SetUp failed for volume \"data\" : mount failed: exit status 32\nMounting command: mount\nMounting arguments: " +
			"-t nfs a:/b /c\nOutput: no such server\n\n": `volume "data": mount failed: exit status 32: no such server`,
		"MountVolume.SetUp failed for volume \"data\" : mount failed: timed out\nMounting command: mount\nMounting arguments: " +
			"-t nfs\nOutput: \n\n": `volume "data": mount failed: timed out`,
		"anything": "anything",
	} {
		if got := mountError(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// unprovisioned has a node anew after the claims of its last were not bound.
func unprovisioned(p *corev1.Pod) {
	unschedulable(time.Minute)(p)
	p.Status.NominatedNodeName = "node-1"
	p.Status.Conditions[0].Reason = corev1.PodReasonSchedulerError
	p.Status.Conditions[0].Message = `running PreBind plugin "VolumeBinding": binding volumes: provisioning failed for PVC "data"`
}

func gated(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a.example/x"}} }

func svc(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "cart"}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func hasAddress(s *corev1.Service) { s.Spec.ClusterIP = "10.43.1.1" }

func node(name string, ready, rules corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: ready}, {Type: kinds.NodeServiceRules, Status: rules, Message: "cannot find iptables"}}}}
}

func TestOf(t *testing.T) {
	rolling := func(d *appsv1.Deployment) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 2, 2 }
	old, current := set("cart-1", "1"), set("cart-2", "2")
	old.UID, current.UID = "rs-1", "rs-2"
	deployment := kinds.For[*appsv1.Deployment]().Key("shop", "cart")
	autoscaler := kinds.For[*autoscalingv2.HorizontalPodAutoscaler]().Key("shop", "cart")
	database := kinds.For[*appsv1.StatefulSet]().Key("shop", "db")
	service := kinds.For[*corev1.Service]().Key("shop", "cart")
	lost := func(d *appsv1.DaemonSet) { d.Status.NumberReady, d.Status.NumberAvailable = 2, 2 }
	daemons := kinds.For[*appsv1.DaemonSet]().Key("shop", "cart")
	controller := kinds.For[*corev1.ReplicationController]().Key("shop", "cart")
	single := kinds.For[*corev1.Pod]().Key("shop", "p")
	job := kinds.For[*batchv1.Job]().Key("shop", "sum")
	for name, c := range map[string]struct {
		key     kinds.Key
		objects []kinds.Object
		want    kinds.State
		cause   string
	}{
		"stateful, available": {database, []kinds.Object{stateful()}, kinds.Healthy, ""},
		"stateful, not observed": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) { s.Generation = 3 })},
			kinds.Progressing, "change not observed yet, 3/3 ready"},
		"stateful, updating": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) { s.Status.UpdatedReplicas = 1 })},
			kinds.Progressing, "1/3 updated, 3/3 ready"},
		"stateful, one too many": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) { s.Status.Replicas = 4 })},
			kinds.Progressing, "3/3 ready"},
		"stateful, up to its partition": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) {
			s.Status.UpdatedReplicas = 1
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(2))}
		})}, kinds.Healthy, ""},
		"stateful, on delete": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) {
			s.Status.UpdatedReplicas = 0
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		})}, kinds.Healthy, ""},
		"stateful, crashing": {database, []kinds.Object{
			stateful(func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas, s.Status.AvailableReplicas = 2, 2 }),
			podOf(nil, "db-2", waits("CrashLoopBackOff"), func(p *corev1.Pod) {
				p.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", UID: "db", Controller: new(true)}}
			}),
		}, kinds.Failed, "CrashLoopBackOff, 2/3 ready"},
		"stateful, refused": {database, []kinds.Object{stateful(func(s *appsv1.StatefulSet) {
			s.Status = appsv1.StatefulSetStatus{ObservedGeneration: 2, Conditions: []appsv1.StatefulSetCondition{{
				Type: kinds.StatefulSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
				Message: `pods "db-0" already exists`,
			}}}
		})}, kinds.Failed, `FailedCreate, 0/3 ready: pods "db-0" already exists`},
		"autoscaler, new": {autoscaler, []kinds.Object{scaler(0)}, kinds.Progressing, "not observed yet"},
		"autoscaler, follows": {autoscaler, []kinds.Object{scaler(2, says("AbleToScale", "True", "ReadyForNewScale", 0),
			says("ScalingActive", "True", "ValidMetricFound", 0))}, kinds.Healthy, ""},
		"autoscaler, disabled": {autoscaler, []kinds.Object{scaler(2, says("AbleToScale", "True", "SucceededGetScale", 0),
			says("ScalingActive", "False", "ScalingDisabled", 0))}, kinds.Healthy, ""},
		"autoscaler, of nothing": {autoscaler, []kinds.Object{scaler(0, says("AbleToScale", "False", "FailedGetScale", 0))},
			kinds.Failed, "FailedGetScale: it is so"},
		"autoscaler, ambiguous": {autoscaler, []kinds.Object{scaler(2, says("AbleToScale", "True", "SucceededGetScale", 0),
			says("ScalingActive", "False", "AmbiguousSelector", 0))}, kinds.Failed, "AmbiguousSelector: it is so"},
		"autoscaler, unmeasured": {autoscaler, []kinds.Object{scaler(2, says("AbleToScale", "True", "SucceededGetScale", 0),
			says("ScalingActive", "False", "FailedGetResourceMetric", time.Minute))},
			kinds.Progressing, "FailedGetResourceMetric: it is so"},
		"autoscaler, unmeasured for long": {autoscaler, []kinds.Object{scaler(2, says("AbleToScale", "True", "SucceededGetScale", 0),
			says("ScalingActive", "False", "FailedGetResourceMetric", time.Hour))},
			kinds.Failed, "FailedGetResourceMetric: it is so"},
		"missing":   {deployment, nil, kinds.Progressing, "not created yet"},
		"available": {deployment, []kinds.Object{deploy()}, kinds.Healthy, ""},
		"scaled to nothing": {deployment, []kinds.Object{deploy(func(d *appsv1.Deployment) {
			d.Spec.Replicas = new(int32(0))
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2}
		})}, kinds.Healthy, ""},
		"not observed": {deployment, []kinds.Object{deploy(func(d *appsv1.Deployment) { d.Status.ObservedGeneration = 1 })},
			kinds.Progressing, "change not observed yet, 3/3 ready"},
		"old replicas left": {deployment, []kinds.Object{deploy(func(d *appsv1.Deployment) { d.Status.Replicas = 4 })},
			kinds.Progressing, "3/3 ready"},
		"updating": {deployment, []kinds.Object{deploy(func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 })},
			kinds.Progressing, "1/3 updated, 3/3 ready"},
		"rolling": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p")}, kinds.Progressing, "2/3 ready"},
		"crash loop": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", waits("CrashLoopBackOff"))},
			kinds.Failed, "CrashLoopBackOff, 2/3 ready"},
		"container creating": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", waits("ContainerCreating"))},
			kinds.Progressing, "2/3 ready"},
		"cannot be started, waits": {deployment,
			[]kinds.Object{deploy(rolling), current, podOf(current, "p", waits("CrashLoopBackOff"), unstarted)}, kinds.Failed,
			`RunContainerError, 2/3 ready: exec: "nosuch": executable file not found in $PATH`},
		"cannot be started": {deployment,
			[]kinds.Object{deploy(rolling), current, podOf(current, "p", waits("RunContainerError"), unstarted)}, kinds.Failed,
			`RunContainerError, 2/3 ready: exec: "nosuch": executable file not found in $PATH`},
		"old pods do not count": {deployment, []kinds.Object{deploy(rolling), old, current, podOf(old, "p", waits("CrashLoopBackOff"))},
			kinds.Progressing, "2/3 ready"},
		"deadline": {deployment, []kinds.Object{deploy(rolling, func(d *appsv1.Deployment) {
			d.Status.Conditions = []appsv1.DeploymentCondition{{
				Type:   appsv1.DeploymentProgressing,
				Status: corev1.ConditionFalse,
				Reason: "ProgressDeadlineExceeded",
			}}
		})}, kinds.Failed, "ProgressDeadlineExceeded, 2/3 ready"},
		"init image": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", func(p *corev1.Pod) {
			waits("ImagePullBackOff")(p)
			p.Status.InitContainerStatuses, p.Status.ContainerStatuses = p.Status.ContainerStatuses, nil
		})}, kinds.Failed, "ImagePullBackOff, 2/3 ready"},
		"unschedulable": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", unschedulable(time.Minute))},
			kinds.Failed, "Unschedulable, 2/3 ready: 0/2 nodes are available: 2 Insufficient cpu."},
		"claims not bound": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", unprovisioned)}, kinds.Failed,
			`SchedulerError, 2/3 ready: binding volumes: provisioning failed for PVC "data"`},
		"claims that are to be bound": {single, []kinds.Object{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"},
			Status: corev1.PodStatus{NominatedNodeName: "node-1"}}}, kinds.Progressing,
			"waits for the volumes of its claims, for node node-1"},
		"just unschedulable": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", unschedulable(time.Second))},
			kinds.Progressing, "2/3 ready"},
		"unschedulable, and no other's end helps": {single, []kinds.Object{&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
				Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: " +
					"1 No preemption victims found for incoming pod.", LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}}}}},
			kinds.Failed, "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."},
		"others end for it": {single, []kinds.Object{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"},
			Status: corev1.PodStatus{NominatedNodeName: "node-1", Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled,
				Status: corev1.ConditionFalse, Reason: "Unschedulable", LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))}}}}},
			kinds.Progressing, "waits for pods of lower priority to end on node node-1"},
		"ends for another": {single, []kinds.Object{&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop", DeletionTimestamp: &metav1.Time{Time: now}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "PreemptionByScheduler"}}}}}, kinds.Progressing, "preempted, is being deleted"},
		"volume not mounted": {deployment, []kinds.Object{deploy(rolling), current, podOf(current, "p", unmounted(time.Minute))},
			kinds.Failed, `FailedMount, 2/3 ready: volume "data": path "/data" does not exist`},
		"volume not mounted yet": {single, []kinds.Object{podOf(current, "p", unmounted(time.Second))}, kinds.Progressing,
			`FailedMount: volume "data": path "/data" does not exist`},
		"gated alone": {single, []kinds.Object{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"},
			Spec: corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "a.example/x"}, {Name: "b.example/y"}}}}},
			kinds.Progressing, "SchedulingGated: waits for a.example/x, b.example/y"},
		"daemons available": {daemons, []kinds.Object{daemonSet()}, kinds.Healthy, ""},
		"daemons on no node": {daemons, []kinds.Object{daemonSet(func(d *appsv1.DaemonSet) {
			d.Status = appsv1.DaemonSetStatus{ObservedGeneration: 2}
		})}, kinds.Healthy, ""},
		"daemons just made": {daemons, []kinds.Object{daemonSet(func(d *appsv1.DaemonSet) {
			d.Status = appsv1.DaemonSetStatus{}
		})}, kinds.Progressing, "not observed yet"},
		"daemons changed": {daemons, []kinds.Object{daemonSet(func(d *appsv1.DaemonSet) { d.Status.ObservedGeneration = 1 })},
			kinds.Progressing, "change not observed yet, 3/3 ready"},
		"daemons rolling": {daemons, []kinds.Object{daemonSet(func(d *appsv1.DaemonSet) { d.Status.UpdatedNumberScheduled = 1 })},
			kinds.Progressing, "1/3 updated, 3/3 ready"},
		"daemons replaced on deletion": {daemons, []kinds.Object{daemonSet(func(d *appsv1.DaemonSet) {
			d.Status.UpdatedNumberScheduled, d.Spec.UpdateStrategy.Type = 1, appsv1.OnDeleteDaemonSetStrategyType
		})}, kinds.Healthy, ""},
		"daemon crash loop": {daemons, []kinds.Object{daemonSet(lost), daemonPod("2", waits("CrashLoopBackOff"))},
			kinds.Failed, "CrashLoopBackOff, 2/3 ready"},
		"daemons of old templates do not count": {daemons, []kinds.Object{daemonSet(lost), daemonPod("1", waits("CrashLoopBackOff"))},
			kinds.Progressing, "2/3 ready"},
		"controller available": {controller, []kinds.Object{rc(2, 2)}, kinds.Healthy, ""},
		"controller rolling": {controller, []kinds.Object{rc(2, 1), func() kinds.Object {
			p := podOf(nil, "p", waits("CrashLoopBackOff"))
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicationController", Name: "cart", UID: "rc", Controller: new(true)}}
			return p
		}()}, kinds.Failed, "CrashLoopBackOff, 1/2 ready"},
		"controller, quota": {controller, []kinds.Object{func() kinds.Object {
			o := rc(2, 0)
			o.Status.Conditions = []corev1.ReplicationControllerCondition{{
				Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
				Message: "no more pods",
			}}
			return o
		}()}, kinds.Failed, "FailedCreate, 0/2 ready: no more pods"},
		"quota": {deployment, []kinds.Object{deploy(rolling), func() kinds.Object {
			rs := current.DeepCopy()
			rs.Status.Conditions = []appsv1.ReplicaSetCondition{{
				Type:   appsv1.ReplicaSetReplicaFailure,
				Status: corev1.ConditionTrue,
				Reason: "FailedCreate", Message: `pods "web-x7k2p" is forbidden: exceeded quota: shop, requested: pods=1`,
			}}
			return rs
		}()}, kinds.Failed, "FailedCreate, 2/3 ready: exceeded quota: shop, requested: pods=1"},
		"job runs":      {job, []kinds.Object{jobOf(2), podOf(nil, "p", isReady, ofJob)}, kinds.Progressing, "2/5 complete"},
		"job fails yet": {job, []kinds.Object{jobOf(2), podOf(nil, "p", ofJob, hasFailed)}, kinds.Progressing, "2/5 complete"},
		"job image": {job, []kinds.Object{jobOf(2), podOf(nil, "p", ofJob, waits("ErrImagePull"))}, kinds.Failed,
			"ImagePullBackOff, 2/5 complete"},
		"job complete": {job, []kinds.Object{jobOf(5, batchv1.JobCondition{Type: batchv1.JobComplete})}, kinds.Healthy, ""},
		"job failed": {job, []kinds.Object{jobOf(1, batchv1.JobCondition{
			Type: batchv1.JobFailed, Reason: "BackoffLimitExceeded", Message: "Job has reached the specified backoff limit",
		})}, kinds.Failed, "BackoffLimitExceeded, 1/5 complete: Job has reached the specified backoff limit"},
		"job fails": {job, []kinds.Object{jobOf(1, batchv1.JobCondition{
			Type: batchv1.JobFailureTarget, Reason: "DeadlineExceeded", Message: "Job was active longer than specified deadline",
		})}, kinds.Failed, "DeadlineExceeded, 1/5 complete: Job was active longer than specified deadline"},
		"job suspended": {job, []kinds.Object{suspendedJob()}, kinds.Healthy, ""},
		"pod ready":     {single, []kinds.Object{podOf(nil, "p", isReady)}, kinds.Healthy, ""},
		"pod succeeded": {single,
			[]kinds.Object{podOf(nil, "p", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, kinds.Healthy, ""},
		"pod failed": {single, []kinds.Object{
			podOf(nil, "p", isReady, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed; p.Status.Reason = "Evicted" }),
		}, kinds.Failed, "Evicted"},
		"pod config": {single, []kinds.Object{podOf(nil, "p", waits("CreateContainerConfigError"))}, kinds.Failed,
			"CreateContainerConfigError"},
		"service nobody behind": {service, []kinds.Object{svc()}, kinds.Healthy, ""},
		"service none ready":    {service, []kinds.Object{svc(), podOf(nil, "p"), podOf(nil, "q")}, kinds.Progressing, "0/2 ready"},
		"service one ready":     {service, []kinds.Object{svc(), podOf(nil, "p"), podOf(nil, "q", isReady)}, kinds.Healthy, ""},
		"image, asked": {single, []kinds.Object{podOf(nil, "p", waitsFor("ErrImagePull", pullFailed))}, kinds.Failed,
			"ImagePullBackOff: cart:bad: not found"},
		"image, waits": {single, []kinds.Object{
			podOf(nil, "p", waitsFor("ImagePullBackOff", `Back-off pulling image "cart:bad": ErrImagePull: `+pullFailed)),
		}, kinds.Failed, "ImagePullBackOff: cart:bad: not found"},
		"image, nobody there": {single, []kinds.Object{podOf(nil, "p", waitsFor("ErrImagePull", dialFailed))}, kinds.Failed,
			"ImagePullBackOff: cart:bad: read tcp 10.0.0.9:443: read: connection reset by peer"},
		"image, no rights": {single, []kinds.Object{podOf(nil, "p", waitsFor("ErrImagePull", tokenFailed))}, kinds.Failed,
			"ImagePullBackOff: cart:bad: unexpected status from GET request to https://auth.example/token: 401 Unauthorized"},
		"image, agent restarted": {
			single, []kinds.Object{podOf(nil, "p", waitsFor("ImagePullBackOff", `Back-off pulling image "cart:bad"`))},
			kinds.Failed, "ImagePullBackOff: cart:bad",
		},
		"image of a deployment": {deployment, []kinds.Object{
			deploy(rolling), current, podOf(current, "p", waitsFor("ErrImagePull", pullFailed)),
		}, kinds.Failed, "ImagePullBackOff, 2/3 ready: cart:bad: not found"},
		"image not an image": {single, []kinds.Object{podOf(nil, "p", waitsFor("InvalidImageName", "whatever"))}, kinds.Failed,
			"InvalidImageName: cart:bad"},
		"secret of a deployment": {deployment, []kinds.Object{
			deploy(rolling), current,
			podOf(current, "p", waitsFor("CreateContainerConfigError", `secret "db" not found`)),
		}, kinds.Failed, `CreateContainerConfigError, 2/3 ready: secret "db" not found`},
		"service all failing": {service, []kinds.Object{svc(), podOf(nil, "p", waits("ErrImagePull"))}, kinds.Failed,
			"ImagePullBackOff, 0/1 ready"},
		"service no rules on a node": {service, []kinds.Object{
			svc(hasAddress), podOf(nil, "q", isReady), node("n1", corev1.ConditionTrue, corev1.ConditionTrue),
			node("n2", corev1.ConditionFalse, corev1.ConditionFalse),
			node("n3", corev1.ConditionTrue, corev1.ConditionFalse),
		}, kinds.Failed, "no service rules on node n2 and 1 more: cannot find iptables"},
		"service no rules, no selector": {service, []kinds.Object{
			svc(hasAddress, func(s *corev1.Service) { s.Spec.Selector = nil }),
			node("n2", corev1.ConditionFalse, corev1.ConditionFalse),
		}, kinds.Failed,
			"no service rules on node n2: cannot find iptables"},
		"service no rules needed": {service,
			[]kinds.Object{svc(), podOf(nil, "q", isReady), node("n2", corev1.ConditionFalse, corev1.ConditionFalse)}, kinds.Healthy, ""},
		"service silent nodes' rules": {service, []kinds.Object{
			svc(hasAddress), podOf(nil, "q", isReady), node("n2", corev1.ConditionUnknown, corev1.ConditionFalse),
		}, kinds.Healthy, ""},
		"service finished pods": {service,
			[]kinds.Object{svc(), podOf(nil, "p", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, kinds.Healthy, ""},
		"anything that is there": {kinds.For[*corev1.ConfigMap]().Key("shop", "c"),
			[]kinds.Object{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "shop"}}}, kinds.Healthy, ""},
		"anything on its way out": {kinds.For[*corev1.ConfigMap]().Key("shop", "c"),
			[]kinds.Object{&corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "shop", DeletionTimestamp: &metav1.Time{Time: now}},
			}}, kinds.Progressing, "is being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			got := At(seen(view.Of(c.objects...), c.key), now).Of(c.key)
			if got.State != c.want || got.Cause != c.cause {
				t.Errorf("%v %q, want %v %q", got.State, got.Cause, c.want, c.cause)
			}
		})
	}
}

func TestAgainTellsWhenTimeDecides(t *testing.T) {
	rs := set("cart-1", "1")
	v := view.Of(deploy(func(d *appsv1.Deployment) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0 }), rs,
		podOf(rs, "p", unschedulable(time.Second)))
	roll := sumOf([]kinds.Key{kinds.For[*appsv1.Deployment]().Key("shop", "cart")}, v, now)
	if want := now.Add(unschedulableAfter - time.Second); !roll.Again.Equal(want) || roll.Failed {
		t.Errorf("again %v, want %v", roll.Again, want)
	}
}

func TestSumNamesTheCauseBeforeItsEffect(t *testing.T) {
	rs := set("cart-1", "1")
	v := view.Of(svc(), deploy(func(d *appsv1.Deployment) { d.Status.ReadyReplicas, d.Status.AvailableReplicas = 0, 0 }), rs,
		podOf(rs, "p", waits("CrashLoopBackOff")))
	roll := sumOf([]kinds.Key{kinds.KeyOf(svc()), kinds.KeyOf(deploy())}, v, now)
	want := "Deployment shop/cart: CrashLoopBackOff, 0/3 ready"
	if roll.First != want || !roll.Failed || roll.Healthy != 0 || roll.Total != 2 {
		t.Errorf("%+v, want %q", roll, want)
	}
}

// silent is a node that was heard of last such a while before now.
func silent(name string, since time.Duration) kinds.Object {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastHeartbeatTime: metav1.NewTime(now.Add(-since)),
		Message: "Kubelet stopped posting node status."}}}}
}

// TestSilentNodeIsTheCause: of pods on a node that is silent the node is told, before what their containers said last, and
// the meaning stays the same as time passes.
func TestSilentNodeIsTheCause(t *testing.T) {
	rs := set("cart-2", "2")
	lost := deploy(func(d *appsv1.Deployment) {
		d.Spec.Replicas = new(int32(2))
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 1, AvailableReplicas: 1}
	})
	on := func(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
	sum := func(since time.Duration) Roll {
		v := view.Of(svc(), lost, rs, podOf(rs, "p", on("a"), waits("CrashLoopBackOff")), podOf(rs, "q", on("b")), silent("b", since))
		return sumOf([]kinds.Key{kinds.KeyOf(svc()), kinds.KeyOf(lost)}, v, now)
	}
	first, later := sum(40*time.Second), sum(3*time.Hour)
	if want := "node b has been silent for 40 s; Deployment shop/cart: 1/2 ready"; first.First != want || !first.Failed {
		t.Errorf("%q, failed %v, want %q", first.First, first.Failed, want)
	}
	if want := "node b has been silent for 3 h; Deployment shop/cart: 1/2 ready"; later.First != want || later.Meaning != first.Meaning {
		t.Errorf("%q meaning %q, want %q meaning %q", later.First, later.Meaning, want, first.Meaning)
	}
	r := At(view.Of(lost, rs, podOf(rs, "q", on("b")), silent("b", 150*time.Second)), now).Of(kinds.KeyOf(lost))
	if want := "node b has been silent for 2 min; 1/2 ready"; r.Text() != want {
		t.Errorf("%q, want %q", r.Text(), want)
	}
	// A StatefulSet waits for the name of a pod that is told to end there.
	db := stateful(func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas, s.Status.AvailableReplicas = 2, 2 })
	ending := podOf(nil, "db-2", on("b"), func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", UID: "db", Controller: new(true)}}
		p.DeletionTimestamp = &metav1.Time{Time: now}
	})
	r = At(view.Of(db, ending, silent("b", 150*time.Second)), now).Of(kinds.KeyOf(db))
	if want := "node b has been silent for 2 min; 2/3 ready"; r.Text() != want {
		t.Errorf("%q, want %q", r.Text(), want)
	}
}

// seen is what the rule of a kind declares to read, beside the object.
func seen(v *view.View, k kinds.Key) *view.View {
	kind := kinds.ForResource(k.GroupResource())
	scope := view.Scope{kind: true}
	for _, r := range kind.Health.Reads {
		scope[kinds.ForGVK(r.Of)] = true
	}
	return v.Only(scope)
}

// TestEveryKindIsJudged judges an object of each kind, about which nothing is known yet, by what its rule declares to read, and no
// more.
func TestEveryKindIsJudged(t *testing.T) {
	for _, k := range kinds.All {
		o := k.New()
		o.SetName("cart")
		v := view.Of(o, deploy(), node("n1", corev1.ConditionTrue, corev1.ConditionTrue))
		if h := At(seen(v, kinds.KeyOf(o)), now).Of(kinds.KeyOf(o)); (h.State == kinds.Healthy) != (h.Text() == "") {
			t.Errorf("%s is %+v: what is not healthy says why", k.Kind, h)
		}
	}
}

func TestReads(t *testing.T) {
	reads := AllReads()
	rules, none := node("n1", corev1.ConditionTrue, corev1.ConditionTrue), node("n1", corev1.ConditionTrue, corev1.ConditionFalse)
	for _, c := range []struct {
		old, new kinds.Object
		concern  bool
	}{
		{nil, podOf(nil, "p"), true},
		{nil, set("s", "1"), true},
		{deploy(), deploy(), false},
		{rules, rules, false},
		{rules, none, true},
		{nil, &coordinationv1.Lease{}, false},
	} {
		if got := reads.Concern(kinds.Of(c.new), c.old, c.new); got != c.concern {
			t.Errorf("a change of %v concerns others: %v", kinds.KeyOf(c.new), got)
		}
	}
}

func sumOf(keys []kinds.Key, v *view.View, now time.Time) Roll {
	judge, sum := At(v, now), NewSum()
	for _, k := range keys {
		sum.Add(k, judge.Of(k))
	}
	return sum.Roll
}
