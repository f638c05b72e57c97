package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
)

func podOf() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "cart", Image: "img"}}}}
}

// TestAPIAccessIsMounted goes through who may say whether a pod gets a token, and what it has already.
func TestAPIAccessIsMounted(t *testing.T) {
	mount := func(name, path string) []corev1.VolumeMount {
		return []corev1.VolumeMount{{Name: name, MountPath: path}}
	}
	for _, test := range []struct {
		name         string
		pod, account *bool
		given        [2][]corev1.VolumeMount // of the init container and the container
		want         [2]bool                 // which of them get one
		volumes      int
	}{
		{name: "nobody says anything", want: [2]bool{true, true}, volumes: 1},
		{name: "the account forbids it", account: new(false)},
		{name: "the pod forbids it", pod: new(false), account: new(true)},
		{name: "the pod allows what the account forbids", pod: new(true), account: new(false), want: [2]bool{true, true}, volumes: 1},
		{name: "something is mounted there", given: [2][]corev1.VolumeMount{nil, mount("own", accessPath)}, want: [2]bool{true, false},
			volumes: 1},
		{name: "something is mounted there in each", given: [2][]corev1.VolumeMount{mount("own", accessPath), mount("own", accessPath)}},
		{name: "something is mounted elsewhere", given: [2][]corev1.VolumeMount{mount("own", "/data"), nil}, want: [2]bool{true, true},
			volumes: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := podOf()
			p.Spec.AutomountServiceAccountToken = test.pod
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "img", VolumeMounts: test.given[0]}}
			p.Spec.Containers[0].VolumeMounts = test.given[1]
			if len(test.given[0])+len(test.given[1]) > 0 {
				p.Spec.Volumes = []corev1.Volume{{Name: "own"}}
			}
			had := len(p.Spec.Volumes)
			cluster := objects{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"},
				AutomountServiceAccountToken: test.account}}
			for range 2 {
				if err := Admit(p, cluster); err != nil {
					t.Fatal(err)
				}
			}
			for i, c := range []corev1.Container{p.Spec.InitContainers[0], p.Spec.Containers[0]} {
				last := corev1.VolumeMount{}
				if n := len(c.VolumeMounts); n > 0 {
					last = c.VolumeMounts[n-1]
				}
				if got := strings.HasPrefix(last.Name, accessVolume) && last.MountPath == accessPath && last.ReadOnly; got != test.want[i] {
					t.Errorf("container %s: mounted %v: %v", c.Name, got, c.VolumeMounts)
				}
			}
			if got := len(p.Spec.Volumes) - had; got != test.volumes {
				t.Errorf("%d volumes are added: %v", got, p.Spec.Volumes)
			}
		})
	}
}

// TestAccountIsThere: a pod of an account that is not there is refused as Kubernetes' plugin does; the default one is to come.
func TestAccountIsThere(t *testing.T) {
	theirs := serviceaccount.NewServiceAccount()
	theirs.SetExternalKubeClientSet(fake.NewClientset())
	theirs.SetExternalKubeInformerFactory(informers.NewSharedInformerFactory(nil, 0))
	for _, test := range []struct {
		name, account string
		there         objects
		refused       bool
	}{
		{name: "it is not there", account: "cart", refused: true},
		{name: "it is in another namespace", account: "cart", refused: true,
			there: objects{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "store", Name: "cart"}}}},
		{name: "it is there", account: "cart",
			there: objects{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}}}},
		{name: "none is named"},
		{name: "the default one is named", account: "default"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := podOf()
			pod.Spec.ServiceAccountName = test.account
			attributes := admission.NewAttributesRecord(&core.Pod{Spec: core.PodSpec{ServiceAccountName: test.account}}, nil,
				core.Kind("Pod").WithVersion("v1"), "shop", "cart", core.Resource("pods").WithVersion("v1"), "", admission.Create, nil,
				false, nil)
			err := Admit(pod, test.there)
			if (err != nil) != test.refused {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				return // theirs waits for what is not there
			}
			if want := theirs.Admit(t.Context(), attributes, nil); want == nil || want.Error() != `pods "cart" is forbidden: `+err.Detail {
				t.Errorf("got %q, want %v", err.Detail, want)
			}
		})
	}
}

// TestPullSecretsOfTheAccount are those of a pod that names none.
func TestPullSecretsOfTheAccount(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}}
	p := podOf()
	if err := Admit(p, objects{account}); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "registry" {
		t.Errorf("the pod has %v", p.Spec.ImagePullSecrets)
	}
}

// TestTokenVolumeIsCompleted: a mount of an account's token brings its volume, once; any other mount does not.
func TestTokenVolumeIsCompleted(t *testing.T) {
	pod := podOf()
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "kube-api-access-12345", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}, {Name: "data", MountPath: "/data"},
	}
	for range 2 {
		Complete(pod)
		if v := pod.Spec.Volumes; len(v) != 1 || v[0].Name != "kube-api-access-12345" || v[0].Projected == nil {
			t.Fatalf("volumes: %v", v)
		}
	}
	pod.Spec.Volumes = nil
	if err := Admit(pod, objects{}); err != nil || len(pod.Spec.Volumes) != 1 || pod.Spec.Volumes[0].Name != "kube-api-access-12345" {
		t.Errorf("%v, volumes: %v", err, pod.Spec.Volumes)
	}
}
