package spec

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"lockstep/kinds"
	"lockstep/nodeagent/variables"
)

// Var is one environment variable.
type Var struct{ Name, Value string }

// Env returns the variables that the pod states and those of the services it
// sees, in Kubernetes' order: envFrom, env, services; a later name replaces an
// earlier one in its place. More than a program can be started with are an error.
func Env(in Input) ([]Var, error) {
	var out []Var
	at, left := map[string]int{}, variables.Most
	set := func(name, value string) {
		left -= len(value)
		if i, ok := at[name]; ok {
			left += len(out[i].Value)
			out[i].Value = value
			return
		}
		at[name] = len(out)
		out = append(out, Var{name, value})
	}
	services := serviceEnv(in)
	known := map[string]string{}
	for _, from := range in.Container.EnvFrom {
		vars, err := envFrom(in, from)
		if err != nil {
			return nil, err
		}
		for _, v := range vars {
			set(v.Name, v.Value)
			known[v.Name] = v.Value
		}
		if left < 0 {
			return nil, tooLong(in)
		}
	}
	fallback := map[string]string{}
	for _, v := range services {
		fallback[v.Name] = v.Value
	}
	mapping := expansion.MappingFuncFor(known, fallback)
	for _, e := range in.Container.Env {
		value := e.Value
		if e.ValueFrom != nil {
			v, ok, err := valueFrom(in, e)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			value = v
		} else if value != "" {
			var err error
			if value, err = variables.Expand(value, left, mapping); err != nil {
				return nil, tooLong(in)
			}
		}
		if set(e.Name, value); left < 0 {
			return nil, tooLong(in)
		}
		known[e.Name] = value
	}
	for _, v := range services {
		if _, ok := at[v.Name]; !ok {
			set(v.Name, v.Value)
		}
	}
	return out, nil
}

func tooLong(in Input) error {
	return createErrorf("container %q: its environment has more than %d bytes: %v", in.Container.Name, variables.Most,
		variables.ErrTooLong)
}

func envFrom(in Input, from corev1.EnvFromSource) ([]Var, error) {
	var vars []Var
	switch {
	case from.ConfigMapRef != nil:
		cm := in.Sources.ConfigMaps[from.ConfigMapRef.Name]
		if cm == nil {
			if optional(from.ConfigMapRef.Optional) {
				return nil, nil
			}
			return nil, configErrorf("configmap %q not found", from.ConfigMapRef.Name)
		}
		for k, v := range cm.Data {
			vars = append(vars, Var{from.Prefix + k, v})
		}
	case from.SecretRef != nil:
		s := in.Sources.Secrets[from.SecretRef.Name]
		if s == nil {
			if optional(from.SecretRef.Optional) {
				return nil, nil
			}
			return nil, configErrorf("secret %q not found", from.SecretRef.Name)
		}
		for k, v := range s.Data {
			vars = append(vars, Var{from.Prefix + k, string(v)})
		}
	}
	vars = slices.DeleteFunc(vars, func(v Var) bool { return len(validation.IsRelaxedEnvVarName(v.Name)) > 0 })
	slices.SortFunc(vars, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return vars, nil
}

// valueFrom resolves a reference; false means it is optional and absent.
func valueFrom(in Input, e corev1.EnvVar) (string, bool, error) {
	from := e.ValueFrom
	switch {
	case from.FieldRef != nil:
		v, err := fieldValue(in, from.FieldRef.FieldPath)
		return v, err == nil, err
	case from.ResourceFieldRef != nil:
		v, err := ResourceValue(in.Pod, in.Container, from.ResourceFieldRef, in.Node.Allocatable)
		return v, err == nil, err
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		cm := in.Sources.ConfigMaps[r.Name]
		if cm == nil {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, configErrorf("configmap %q not found", r.Name)
		}
		v, ok := cm.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, configErrorf("couldn't find key %v in ConfigMap %v/%v", r.Key, in.Pod.Namespace, r.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		s := in.Sources.Secrets[r.Name]
		if s == nil {
			if optional(r.Optional) {
				return "", false, nil
			}
			return "", false, configErrorf("secret %q not found", r.Name)
		}
		v, ok := s.Data[r.Key]
		if !ok && !optional(r.Optional) {
			return "", false, configErrorf("couldn't find key %v in Secret %v/%v", r.Key, in.Pod.Namespace, r.Name)
		}
		return string(v), ok, nil
	case from.FileKeyRef != nil:
		r := from.FileKeyRef
		v := in.Sources.Files[FileKey{r.VolumeName, r.Path, r.Key}]
		if v == "" && !optional(r.Optional) {
			return "", false, configErrorf("environment variable key %q not found in file %q", r.Key, r.Path)
		}
		return v, v != "", nil
	}
	return "", false, configErrorf("environment variable %s has no source that is known here", e.Name)
}

func fieldValue(in Input, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return in.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return in.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(in.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(in.HostIPs, ","), nil
	case "status.podIP":
		return first(in.PodIPs), nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	}
	v, err := fieldpath.ExtractFieldPathAsString(in.Pod, path)
	if err != nil {
		return "", configErrorf("cannot read field %s of the pod: %v", path, err)
	}
	return v, nil
}

// ResourceValue is the value of a resource field of c, or of the container that
// the reference names; where no limit is stated it is what the node can allocate.
func ResourceValue(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector,
	allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		c = nil
		for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range cs {
				if cs[i].Name == ref.ContainerName {
					c = &cs[i]
				}
			}
		}
		if c == nil {
			return "", configErrorf("container %s not found", ref.ContainerName)
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	q, ok := list[corev1.ResourceName(name)]
	if !ok && kind == "limits" {
		q = kinds.Within(pod, allocatable)[corev1.ResourceName(name)]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10), nil
}

// serviceEnv has the variables of services that have an address.
func serviceEnv(in Input) []Var {
	links := in.Pod.Spec.EnableServiceLinks == nil || *in.Pod.Spec.EnableServiceLinks
	services := slices.Clone(in.Sources.Services)
	slices.SortFunc(services, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	var out []Var
	for _, s := range services {
		master := s.Namespace == "default" && s.Name == "kubernetes"
		if !master && (!links || s.Namespace != in.Pod.Namespace) {
			continue
		}
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		name := envName(s.Name)
		out = append(out,
			Var{name + "_SERVICE_HOST", s.Spec.ClusterIP},
			Var{name + "_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port))})
		for _, p := range s.Spec.Ports {
			if p.Name != "" {
				out = append(out, Var{name + "_SERVICE_PORT_" + envName(p.Name), strconv.Itoa(int(p.Port))})
			}
		}
		for i, p := range s.Spec.Ports {
			proto := string(p.Protocol)
			if proto == "" {
				proto = "TCP"
			}
			url := fmt.Sprintf("%s://%s", strings.ToLower(proto), net.JoinHostPort(s.Spec.ClusterIP, strconv.Itoa(int(p.Port))))
			if i == 0 {
				out = append(out, Var{name + "_PORT", url})
			}
			prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(proto))
			out = append(out,
				Var{prefix, url},
				Var{prefix + "_PROTO", strings.ToLower(proto)},
				Var{prefix + "_PORT", strconv.Itoa(int(p.Port))},
				Var{prefix + "_ADDR", s.Spec.ClusterIP})
		}
	}
	return out
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

// args is command and args, $(VAR) expanded, with the image's where the pod states none.
func args(in Input, env []Var) ([]string, error) {
	known := map[string]string{}
	for _, v := range env {
		known[v.Name] = v.Value
	}
	mapping, left := expansion.MappingFuncFor(known), variables.Most
	var err error
	expand := func(ss []string) (out []string) {
		for _, s := range ss {
			long, wrong := variables.Expand(s, left, mapping)
			err, left = cmp.Or(err, wrong), left-len(long)
			out = append(out, long)
		}
		return out
	}
	command, arguments := expand(in.Container.Command), expand(in.Container.Args)
	if err != nil {
		return nil, createErrorf("container %q: its command and arguments have more than %d bytes: %v", in.Container.Name,
			variables.Most, err)
	}
	if len(command) == 0 {
		command = in.Image.Entrypoint
		if len(arguments) == 0 {
			arguments = in.Image.Cmd
		}
	}
	return append(slices.Clone(command), arguments...), nil
}

// processEnv is the image's environment, the host name, then the pod's.
func processEnv(in Input, env []Var) []string {
	var out []string
	at := map[string]int{}
	set := func(name, value string) {
		if i, ok := at[name]; ok {
			out[i] = name + "=" + value
			return
		}
		at[name] = len(out)
		out = append(out, name+"="+value)
	}
	set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if in.Container.TTY {
		set("TERM", "xterm")
	}
	set("HOSTNAME", in.Sandbox.Name)
	for _, e := range in.Image.Env {
		name, value, _ := strings.Cut(e, "=")
		set(name, value)
	}
	for _, v := range env {
		set(v.Name, v.Value)
	}
	return out
}

// longestPath is the kernel's bound of a path.
const longestPath = 4096

// SubPath is the mount's subPath, with subPathExpr expanded.
func SubPath(m corev1.VolumeMount, env []Var) (string, error) {
	if m.SubPathExpr == "" {
		return m.SubPath, nil
	}
	known := map[string]string{}
	for _, v := range env {
		known[v.Name] = v.Value
	}
	missing := ""
	out, err := variables.Expand(m.SubPathExpr, longestPath, func(name string) string {
		v, ok := known[name]
		if !ok {
			missing = name
		}
		return v
	})
	if err != nil {
		return "", configErrorf("cannot expand subPathExpr %q of mount %s: file name too long", m.SubPathExpr, m.MountPath)
	}
	if missing != "" {
		return "", configErrorf("cannot expand subPathExpr %q of mount %s: variable %s is not set", m.SubPathExpr, m.MountPath, missing)
	}
	return out, nil
}

func optional(b *bool) bool { return b != nil && *b }

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
