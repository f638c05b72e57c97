package nodeagent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// prompt is how soon a change must be seen, less than refreshPeriod; it takes
// a quarter of a second on an idle machine.
const prompt = 10 * time.Second

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
}

func configVolume(volume, name string, optional bool) corev1.Volume {
	return corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}}}
}

// TestContentFollowsTheCluster changes what pods refer to and sees them follow.
func TestContentFollowsTheCluster(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	l.put(configMap("settings", map[string]string{"color": "green"}))
	// The shell prints every state of the files once; half a state would be two words.
	c := shell("main", `echo env=$color; last=; while :; do now="$(cat /config/color 2>/dev/null) $(cat /secret/word 2>/dev/null) $(cat `+
		`/labels/labels)"; [ "$now" = "$last" ] || echo "state $now"; last=$now; sleep 0.1; done`)
	c.EnvFrom = []corev1.EnvFromSource{{
		ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}},
	}}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret"},
		{Name: "labels", MountPath: "/labels"},
	}
	follows := corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{c}}
	follows.Volumes = []corev1.Volume{
		configVolume("config", "settings", false),
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "pass", Optional: new(true)}}},
		{Name: "labels", VolumeSource: corev1.VolumeSource{
			DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels"}},
			}},
		}},
	}
	l.bind("follows", follows)
	p := l.running("follows")
	l.prints(p, "main", "state green  ")
	shows := func(want string) {
		t.Helper()
		l.eventually("shows "+want, prompt, func() error {
			if text := l.log(p, "main", 0); !strings.Contains(text, "state "+want) {
				return fmt.Errorf("log %q", text)
			}
			return nil
		})
	}
	l.put(configMap("settings", map[string]string{"color": "blue"}))
	shows("blue  ")
	l.put(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pass"},
		Data:       map[string][]byte{"word": []byte("xyzzy")},
	})
	shows("blue xyzzy ")
	labelled := l.pod("follows").DeepCopy()
	labelled.Labels = map[string]string{"tier": "front"}
	l.put(labelled)
	shows(`blue xyzzy tier="front"`)
	if text := l.log(p, "main", 0); strings.Count(text, "env=") != 1 || !strings.Contains(text, "env=green") {
		t.Errorf("the environment followed: %q", text)
	}
}

// TestWaitsForWhatIsMissing starts pods before what they refer to is there.
func TestWaitsForWhatIsMissing(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ready()
	volume := shell("main", "echo $(cat /config/color); "+forever)
	volume.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}}
	l.bind("volume", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{volume},
		Volumes:                       []corev1.Volume{configVolume("config", "late", false)},
	})
	env := shell("main", "echo $COLOR; "+forever)
	env.Env = []corev1.EnvVar{{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "late"}, Key: "color"}}}}
	l.bind("env", corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)), Containers: []corev1.Container{env}})
	optional := shell("main", "ls /config; echo color=$COLOR; "+forever)
	optional.VolumeMounts = volume.VolumeMounts
	optional.Env = []corev1.EnvVar{{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "never"}, Key: "color", Optional: new(true)}}}}
	l.bind("optional", corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{optional},
		Volumes:                       []corev1.Volume{configVolume("config", "never", true)},
	})
	p := l.running("optional")
	l.prints(p, "main", "stdout F color=\n")
	l.waits("env", "CreateContainerConfigError", `configmap "late" not found`)
	l.waits("volume", "ContainerCreating", "")
	l.event("volume", "FailedMount", `MountVolume.SetUp failed for volume "config" : configmap "late" not found`)
	l.event("env", "Failed", `Error: configmap "late" not found`)
	l.put(configMap("late", map[string]string{"color": "green"}))
	for _, name := range []string{"volume", "env"} {
		l.prints(l.running(name), "main", "green")
	}
}

// waits waits until a pod's only container waits for that reason.
func (l *lab) waits(name, reason, message string) {
	l.t.Helper()
	l.eventually(name+" waits: "+reason, 30*time.Second, func() error {
		for _, s := range l.pod(name).Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && w.Reason == reason && strings.Contains(w.Message, message) {
				return nil
			}
		}
		return fmt.Errorf("status %+v", l.pod(name).Status.ContainerStatuses)
	})
}

// event waits until an event of a pod was posted.
func (l *lab) event(name, reason, message string) {
	l.t.Helper()
	l.eventually("event "+reason+" of "+name, 10*time.Second, func() error {
		seen := []string{}
		for _, e := range l.events(name) {
			if e.Reason == reason && strings.Contains(e.Message, message) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("events %q", seen)
	})
}
