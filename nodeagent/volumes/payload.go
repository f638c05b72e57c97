package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"

	"lockstep/kinds"
)

// content is one file of a volume.
type content struct {
	data []byte
	mode fs.FileMode
}

// files are a volume's files by their slash-separated paths.
type files map[string]content

// payload collects the files that a volume shows.
func payload(pod *corev1.Pod, v *corev1.Volume, sources Sources) (files, error) {
	switch {
	case v.ConfigMap != nil:
		c := v.ConfigMap
		return configMapFiles(pod.Namespace, c.Name, c.Items, mode(c.DefaultMode), optional(c.Optional), sources)
	case v.Secret != nil:
		s := v.Secret
		return secretFiles(pod.Namespace, s.SecretName, s.Items, mode(s.DefaultMode), optional(s.Optional), sources)
	case v.DownwardAPI != nil:
		return downwardFiles(pod, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode), sources)
	case v.Projected != nil:
		return projectedFiles(pod, v.Projected, sources)
	}
	return nil, errors.New("this kind of volume has no content")
}

// projectedFiles merges the sources in their order: a later one wins a path.
func projectedFiles(pod *corev1.Pod, p *corev1.ProjectedVolumeSource, sources Sources) (files, error) {
	all := files{}
	var errs []error
	for i := range p.Sources {
		source := &p.Sources[i]
		var some files
		var err error
		switch {
		case source.ConfigMap != nil:
			c := source.ConfigMap
			some, err = configMapFiles(pod.Namespace, c.Name, c.Items, mode(p.DefaultMode), optional(c.Optional), sources)
		case source.Secret != nil:
			s := source.Secret
			some, err = secretFiles(pod.Namespace, s.Name, s.Items, mode(p.DefaultMode), optional(s.Optional), sources)
		case source.DownwardAPI != nil:
			some, err = downwardFiles(pod, source.DownwardAPI.Items, mode(p.DefaultMode), sources)
		case source.ServiceAccountToken != nil:
			some, err = tokenFile(pod, source.ServiceAccountToken, mode(p.DefaultMode), sources)
		default:
			err = errors.New("this kind of projection is not supported")
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for name, file := range some {
			all[name] = file
		}
	}
	return all, errors.Join(errs...)
}

// tokenFile is read, beside root, by the pod's own group alone where it has one, as with the kubelet.
func tokenFile(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection, mode fs.FileMode, sources Sources) (files, error) {
	token, err := sources.Token(pod, p)
	if err != nil {
		return nil, err
	}
	if fsGroup(pod) != nil {
		mode = 0o600
	}
	all := files{p.Path: content{[]byte(token), mode}}
	return all, all.check()
}

func configMapFiles(namespace, name string, items []corev1.KeyToPath, mode fs.FileMode, optional bool, sources Sources) (files, error) {
	object, err := sources.ConfigMap(namespace, name)
	switch {
	case apierrors.IsNotFound(err) && optional:
		return files{}, nil
	case apierrors.IsNotFound(err):
		return nil, missing{fmt.Sprintf("configmap %q not found", name), err}
	case err != nil:
		return nil, err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	return pick(data, items, mode, optional, "configmap references non-existent config key: %s")
}

func secretFiles(namespace, name string, items []corev1.KeyToPath, mode fs.FileMode, optional bool, sources Sources) (files, error) {
	object, err := sources.Secret(namespace, name)
	switch {
	case apierrors.IsNotFound(err) && optional:
		return files{}, nil
	case apierrors.IsNotFound(err):
		return nil, missing{fmt.Sprintf("secret %q not found", name), err}
	case err != nil:
		return nil, err
	}
	return pick(object.Data, items, mode, optional, "references non-existent secret key: %s")
}

// missing has the kubelet's words for an object that is not there, and still is a NotFound.
type missing struct {
	text string
	err  error
}

func (e missing) Error() string { return e.text }
func (e missing) Unwrap() error { return e.err }

// pick takes the items of the data, or all of it when there are none.
func pick(data map[string][]byte, items []corev1.KeyToPath, mode fs.FileMode, optional bool, absent string) (files, error) {
	all := files{}
	if len(items) == 0 {
		for key, value := range data {
			all[key] = content{value, mode}
		}
		return all, all.check()
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf(absent, item.Key)
		}
		itemMode := mode
		if item.Mode != nil {
			itemMode = fs.FileMode(*item.Mode)
		}
		all[item.Path] = content{value, itemMode}
	}
	return all, all.check()
}

func downwardFiles(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode fs.FileMode, sources Sources) (files, error) {
	all := files{}
	for i := range items {
		item := &items[i]
		itemMode := mode
		if item.Mode != nil {
			itemMode = fs.FileMode(*item.Mode)
		}
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = resource.ExtractResourceValueByContainerNameAndNodeAllocatable(
				item.ResourceFieldRef, pod, item.ResourceFieldRef.ContainerName, kinds.Within(pod, sources.Allocatable))
		default:
			err = fmt.Errorf("the item %s refers to nothing", item.Path)
		}
		if err != nil {
			return nil, err
		}
		all[item.Path] = content{[]byte(value), itemMode}
	}
	return all, all.check()
}

// check refuses paths that would lead out of the volume, or into what the writer keeps for itself.
func (f files) check() error {
	for name := range f {
		switch {
		case name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".":
			return fmt.Errorf("invalid path: must be relative and plain: %q", name)
		case strings.HasPrefix(name, ".."):
			return fmt.Errorf("invalid path: must not start with '..': %q", name)
		case hasDotDot(name):
			return fmt.Errorf("invalid path: must not contain '..': %q", name)
		case len(name) > 4096:
			return fmt.Errorf("invalid path: longer than 4096 characters")
		}
	}
	return nil
}

// mode is what Kubernetes' defaulting gives when nothing is said.
func mode(m *int32) fs.FileMode {
	if m == nil {
		return fs.FileMode(corev1.ConfigMapVolumeSourceDefaultMode)
	}
	return fs.FileMode(*m)
}

func optional(b *bool) bool { return b != nil && *b }
