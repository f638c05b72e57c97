package spec

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts are the kernel's file systems, the pod's shared files, then the
// volumes, parents before children.
func mounts(in Input) ([]specs.Mount, error) {
	if len(in.Mounts) != len(in.Container.VolumeMounts) {
		return nil, configErrorf("container %q mounts %d volumes and %d are set up", in.Container.Name,
			len(in.Container.VolumeMounts), len(in.Mounts))
	}
	access := "ro"
	if Privileged(in.Container) {
		access = "rw"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	ids := idMappings(in.Sandbox)
	taken := func(at string) bool {
		return slices.ContainsFunc(in.Container.VolumeMounts, func(m corev1.VolumeMount) bool { return path.Clean(m.MountPath) == at })
	}
	bind := func(source, at string, ids []specs.LinuxIDMapping, options ...string) {
		if source != "" && !taken(at) {
			out = append(out, specs.Mount{
				Destination: at,
				Type:        "bind",
				Source:      source,
				Options:     append([]string{"rbind", "rprivate"}, options...),
				UIDMappings: ids,
				GIDMappings: ids,
			})
		}
	}
	files := "rw"
	if readOnlyRoot(in.Container) {
		files = "ro"
	}
	bind(in.Sandbox.Shm, "/dev/shm", nil, "rw", "nosuid", "noexec", "nodev") // it belongs to the pod's users
	bind(in.Sandbox.Hosts, "/etc/hosts", ids, files)
	bind(in.Sandbox.Resolv, "/etc/resolv.conf", ids, files)
	bind(in.Sandbox.Hostname, "/etc/hostname", ids, files)
	if at := in.Container.TerminationMessagePath; at != "" {
		bind(in.TerminationLog, path.Clean(at), ids, "rw")
	}
	var volumes []specs.Mount
	for i, m := range in.Container.VolumeMounts {
		options := []string{"rbind", propagation(m)}
		recursive, err := recursiveReadOnly(in, m)
		if err != nil {
			return nil, err
		}
		switch {
		case recursive:
			options = append(options, "rro")
		case m.ReadOnly || in.Mounts[i].ReadOnly:
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		v := specs.Mount{
			Destination: containerPath(in, m.MountPath),
			Type:        "bind",
			Source:      in.Mounts[i].Source,
			Options:     append(options, in.Mounts[i].Options...),
		}
		if !in.Mounts[i].Shifted {
			v.UIDMappings, v.GIDMappings = ids, ids
		}
		volumes = append(volumes, v)
	}
	slices.SortStableFunc(volumes, func(a, b specs.Mount) int {
		return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
	})
	return append(out, volumes...), nil
}

// recursiveReadOnly says whether what is mounted below a volume is read-only, too. The errors are the kubelet's.
func recursiveReadOnly(in Input, m corev1.VolumeMount) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	supported := in.Node.RecursiveReadOnly && !in.Sandbox.OtherRuntime
	if *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled && !supported {
		return false, configErrorf("failed to resolve recursive read-only mode: volume %q requested recursive read-only mode, "+
			"but it is not supported by the runtime", m.Name)
	}
	return supported, nil
}

// containerPath is a mount path made absolute, as Kubernetes allows relative ones.
func containerPath(in Input, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(workingDir(in), p)
}

func propagation(m corev1.VolumeMount) string {
	if m.MountPropagation != nil {
		switch *m.MountPropagation {
		case corev1.MountPropagationHostToContainer:
			return "rslave"
		case corev1.MountPropagationBidirectional:
			return "rshared"
		}
	}
	return "rprivate"
}

// rootfsPropagation is the least private that any mount needs.
func rootfsPropagation(c *corev1.Container) string {
	least := ""
	for _, m := range c.VolumeMounts {
		switch propagation(m) {
		case "rshared":
			return "rshared"
		case "rslave":
			least = "rslave"
		}
	}
	return least
}
