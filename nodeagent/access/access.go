// Package access decides which pods may use an image that is on their node already, by the kubelet's rules: whoever could not pull
// it is not to have it because another pod could.
package access

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Policy says of which images on the node a pod's credentials are verified, by the names of the kubelet's
// imagePullCredentialsVerificationPolicy.
type Policy string

// The policies.
const (
	// NeverVerify lets every pod use every image.
	NeverVerify Policy = "NeverVerify"
	// NeverVerifyPreloadedImages, the default, lets every pod use what the node has not pulled itself.
	NeverVerifyPreloadedImages Policy = "NeverVerifyPreloadedImages"
	// NeverVerifyAllowlistedImages lets every pod use the images of a list.
	NeverVerifyAllowlistedImages Policy = "NeverVerifyAllowlistedImages"
	// AlwaysVerify lets nobody use an image without having been able to pull it.
	AlwaysVerify Policy = "AlwaysVerify"
)

// Verification is a policy with its list. The zero value is NeverVerifyPreloadedImages.
type Verification struct {
	Policy Policy
	names  []string // whole names of repositories
	below  []string // beginnings, up to a slash
}

// Parse reads a policy, and the list that NeverVerifyAllowlistedImages takes: repositories without tag and digest, or all below a
// path that ends in /*, spelled as pods state them.
func Parse(policy string, allowed []string) (Verification, error) {
	v := Verification{Policy: Policy(policy)}
	switch v.Policy {
	case "":
		v.Policy = NeverVerifyPreloadedImages
	case NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages, AlwaysVerify:
	default:
		return v, fmt.Errorf("unknown policy %q: want %s, %s, %s or %s", policy, NeverVerify, NeverVerifyPreloadedImages,
			NeverVerifyAllowlistedImages, AlwaysVerify)
	}
	if len(allowed) > 0 && v.Policy != NeverVerifyAllowlistedImages {
		return v, fmt.Errorf("a list of images is for the policy %s alone", NeverVerifyAllowlistedImages)
	}
	for _, pattern := range allowed {
		if err := v.allow(pattern); err != nil {
			return v, fmt.Errorf("image %q: %w", pattern, err)
		}
	}
	return v, nil
}

func (v *Verification) allow(pattern string) error {
	below, all := strings.CutSuffix(pattern, "*")
	switch {
	case pattern != strings.TrimSpace(pattern):
		return errors.New("there are spaces around it")
	case all && (!strings.HasSuffix(below, "/") || len(below) < 2) || strings.Contains(below, "*"):
		return errors.New("a star may only stand behind a registry or a path, as in registry.example/team/*")
	case all:
		v.below = append(v.below, below)
		return nil
	}
	name, err := Repository(pattern)
	if err != nil {
		return err
	}
	if name != pattern {
		return errors.New("it has a tag or a digest")
	}
	v.names = append(v.names, pattern)
	return nil
}

// Asks says whether a pod has to show that it can pull an image that it states by that name; pulled says that the node pulled it
// itself.
func (v Verification) Asks(image string, pulled bool) bool {
	switch v.Policy {
	case NeverVerify:
		return false
	case AlwaysVerify:
		return true
	case NeverVerifyAllowlistedImages:
		name, err := Repository(image)
		if err != nil {
			name = image
		}
		begins := func(below string) bool { return strings.HasPrefix(name, below) }
		return !slices.Contains(v.names, name) && !slices.ContainsFunc(v.below, begins)
	}
	return pulled
}

// Repository is an image's name as it is stated, without tag and digest.
func Repository(image string) (string, error) {
	parsed, err := reference.Parse(image)
	if err != nil {
		return "", err
	}
	if digested, ok := parsed.(reference.Digested); ok {
		image = strings.TrimSuffix(image, "@"+digested.Digest().String())
	}
	if tagged, ok := parsed.(reference.Tagged); ok {
		image = strings.TrimSuffix(image, ":"+tagged.Tag())
	}
	return image, nil
}

// Secret is a pull secret, and the hash of the credential in it; no hash fits none.
type Secret struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Hash      string `json:"credentialHash"`
}

func (s Secret) same(as Secret) bool {
	return s.UID == as.UID && s.Namespace == as.Namespace && s.Name == as.Name
}

// Access is with what an image was pulled.
type Access struct {
	// Anyone says that it took no more than what the node has.
	Anyone bool `json:"nodePodsAccessible,omitempty"`
	// Secrets could pull it, in the order of their namespaces and names, each once.
	Secrets []Secret `json:"kubernetesSecrets,omitempty"`
}

// maxSecrets bounds what is added of secrets that are known to fit, the kubelet's figure: namespaces come and go.
const maxSecrets = 100

// Record is how one image came, by the repositories it was pulled from. The zero value knows of none.
type Record struct {
	Image  string            `json:"imageRef"` // its digest
	Access map[string]Access `json:"credentialMapping,omitempty"`
}

// Admits says whether a pod that has those secrets may use the image from a repository without pulling it. A secret that was not
// known, or has another credential than when it was, is learned: Add takes it.
func (r Record) Admits(repository string, secrets []Secret) (ok bool, learned Access) {
	known := r.Access[repository]
	if known.Anyone {
		return true, Access{}
	}
	for _, has := range secrets {
		for _, is := range known.Secrets {
			fits := is.Hash != "" && has.Hash == is.Hash
			if !fits && !has.same(is) {
				continue
			}
			if (!fits || !has.same(is)) && len(known.Secrets) < maxSecrets {
				learned.Secrets = []Secret{has}
			}
			return true, learned
		}
	}
	return false, Access{}
}

// Add returns the record with what the image was pulled with, and whether that is new. r is not changed.
func (r Record) Add(repository string, by Access) (Record, bool) {
	known := r.Access[repository]
	switch {
	case known.Anyone || !by.Anyone && len(by.Secrets) == 0:
		return r, false
	case by.Anyone:
		known = Access{Anyone: true}
	default:
		merged := merge(known.Secrets, by.Secrets)
		if slices.Equal(merged, known.Secrets) {
			return r, false
		}
		known.Secrets = merged
	}
	r.Access = maps.Clone(r.Access)
	if r.Access == nil {
		r.Access = map[string]Access{}
	}
	r.Access[repository] = known
	return r, true
}

// merge has each secret once, with its newest hash.
func merge(old, add []Secret) []Secret {
	out := slices.Clone(old)
	for _, s := range add {
		out = slices.DeleteFunc(out, s.same)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Secret) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.UID, b.UID))
	})
	return out
}
