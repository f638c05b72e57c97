package spec

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"lockstep/nodeagent/variables"
)

func inputOf(c corev1.Container) Input {
	c.Name = "c"
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	return Input{Pod: pod, Container: &pod.Spec.Containers[0], Image: imagespec.ImageConfig{Entrypoint: []string{"/run"}},
		Node: Node{MaxOpenFiles: 1 << 20}, Sandbox: Sandbox{Name: "p"}}
}

// TestExpansionBombs: a manifest of a few lines whose variables repeat each other is refused, and does not take the node's memory.
func TestExpansionBombs(t *testing.T) {
	var chain []corev1.EnvVar
	for i := range 50 {
		value := "xxxxxxxxxx"
		if i > 0 {
			value = strings.Repeat(fmt.Sprintf("$(V%d)", i-1), 10)
		}
		chain = append(chain, corev1.EnvVar{Name: fmt.Sprint("V", i), Value: value})
	}
	large := []corev1.EnvVar{{Name: "A", Value: strings.Repeat("x", 1<<19)}}
	refs := func(n int) string { return strings.Repeat("$(A)", n) }
	var many []corev1.EnvVar
	for i := range 5000 {
		many = append(many, corev1.EnvVar{Name: fmt.Sprint("S", i), ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}})
	}
	for name, c := range map[string]corev1.Container{
		"variables of variables": {Env: chain},
		"a large one often":      {Env: append(large[:1:1], corev1.EnvVar{Name: "B", Value: refs(100_000)})},
		"many of one secret":     {Env: many},
		"arguments":              {Env: large, Args: []string{refs(8), refs(8), refs(8)}},
	} {
		t.Run(name, func(t *testing.T) {
			in := inputOf(c)
			in.Sources.Secrets = map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte(strings.Repeat("y", 1<<19))}}}
			_, err := Build(in)
			if wrong := (*ConfigError)(nil); !errors.As(err, &wrong) || wrong.Reason != ReasonCreate ||
				!strings.Contains(err.Error(), variables.ErrTooLong.Error()) {
				t.Errorf("%.300v", err)
			}
		})
	}
	if _, err := Build(inputOf(corev1.Container{Env: large, Args: []string{refs(8)}})); err != nil {
		t.Errorf("what a program can be started with: %v", err)
	}
	if _, err := SubPath(corev1.VolumeMount{SubPathExpr: refs(1000)}, []Var{{"A", large[0].Value}}); err == nil {
		t.Error("a path that no kernel takes")
	}
}

// TestUsersOfNumbers: a user that the pod states by number is that one, whatever the image calls its root.
func TestUsersOfNumbers(t *testing.T) {
	uid := int64(1000)
	in := inputOf(corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: &uid}})
	in.Users.Passwd = "1000:x:0:0::/:/bin/sh\nweb:x:1000:7::/:/bin/sh\n"
	s, err := Build(in)
	if err != nil || s.Process.User.UID != 1000 || s.Process.User.GID != 7 {
		t.Errorf("%+v, %v", s, err)
	}
	in.Users.Passwd = "1000:x:0:0::/:/bin/sh\n"
	if s, err := Build(in); err != nil || s.Process.User.UID != 1000 {
		t.Errorf("not in the file: %+v, %v", s, err)
	}
	in = inputOf(corev1.Container{})
	in.Users.Passwd, in.Image.User = "1000:x:0:0::/:/bin/sh\n", "1000"
	if s, err := Build(in); err != nil || s.Process.User.UID != 0 {
		t.Errorf("what the image itself says by name: %+v, %v", s, err)
	}
}
