package images

import (
	"fmt"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
)

// Normalize gives an image's one full name: `nginx` is `docker.io/library/nginx:latest`, and a name with both a tag
// and a digest loses the tag, as the digest alone says what it is.
func Normalize(image string) (string, error) {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %v", image, err)
	}
	return named.String(), nil
}

// Policy is the pull policy of a container that states none: Always for `latest`, IfNotPresent for the rest.
func Policy(image string, stated corev1.PullPolicy) corev1.PullPolicy {
	if stated != "" {
		return stated
	}
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := named.(reference.Tagged); ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// repository is the name without tag and digest.
func repository(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return named.Name()
}
