package spec

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Users are an image's /etc/passwd and /etc/group; empty if it has none.
type Users struct{ Passwd, Group string }

// userOf resolves who the container runs as.
func userOf(in Input) (specs.User, error) {
	pod, own := in.Pod.Spec.SecurityContext, in.Container.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	uid, gid := firstOf(own.RunAsUser, pod.RunAsUser), firstOf(own.RunAsGroup, pod.RunAsGroup)
	imageUser, imageGroup, _ := strings.Cut(in.Image.User, ":")
	name := imageUser
	if uid != nil {
		name, imageGroup = strconv.FormatInt(*uid, 10), ""
	}
	if name == "" {
		name = "0"
	}
	entry, ok := lookupUser(in.Users.Passwd, name, uid == nil)
	if !ok {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return specs.User{}, createErrorf("the image's user %q is not in its /etc/passwd", name)
		}
		entry.uid = uint32(n)
	}
	u := specs.User{UID: entry.uid, GID: entry.gid}
	switch {
	case gid != nil:
		u.GID = uint32(*gid)
	case imageGroup != "":
		g, ok := lookupGroup(in.Users.Group, imageGroup)
		if !ok {
			return specs.User{}, createErrorf("the image's group %q is not in its /etc/group", imageGroup)
		}
		u.GID = g
	}
	if must := firstOf(own.RunAsNonRoot, pod.RunAsNonRoot); must != nil && *must {
		_, err := strconv.ParseUint(name, 10, 32)
		switch {
		case uid == nil && err != nil && imageUser != "":
			return specs.User{}, configErrorf("container has runAsNonRoot and image has non-numeric user (%s), "+
				"cannot verify user is non-root (pod: %q, container: %s)", imageUser, podName(in.Pod), in.Container.Name)
		case u.UID == 0 && uid != nil:
			return specs.User{}, configErrorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)",
				podName(in.Pod), in.Container.Name)
		case u.UID == 0:
			return specs.User{}, configErrorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)",
				podName(in.Pod), in.Container.Name)
		}
	}
	u.AdditionalGids = additionalGroups(in, pod, entry.name, u.GID)
	return u, nil
}

// additionalGroups are the pod's supplemental groups and fsGroup, and, unless
// its policy is Strict, the groups of the image that list the user.
func additionalGroups(in Input, pod *corev1.PodSecurityContext, user string, gid uint32) []uint32 {
	groups := []uint32{gid}
	if pod.SupplementalGroupsPolicy == nil || *pod.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyMerge {
		for line := range strings.Lines(in.Users.Group) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if user == "" || len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
				continue
			}
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				groups = append(groups, uint32(n))
			}
		}
	}
	for _, g := range pod.SupplementalGroups {
		groups = append(groups, uint32(g))
	}
	if pod.FSGroup != nil {
		groups = append(groups, uint32(*pod.FSGroup))
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

type passwdEntry struct {
	name     string
	uid, gid uint32
}

// lookupUser finds a user by number or, where that may be, by name. A number that the pod states is none: an image that has a
// root of that name would have it run as root.
func lookupUser(passwd, want string, named bool) (passwdEntry, bool) {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[2] != want && (!named || f[0] != want) {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			return passwdEntry{f[0], uint32(uid), uint32(gid)}, true
		}
	}
	return passwdEntry{}, false
}

func lookupGroup(group, want string) (uint32, bool) {
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) >= 3 && f[0] == want {
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				return uint32(n), true
			}
		}
	}
	n, err := strconv.ParseUint(want, 10, 32)
	return uint32(n), err == nil
}

func firstOf[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func podName(p *corev1.Pod) string { return p.Name + "_" + p.Namespace + "(" + string(p.UID) + ")" }
