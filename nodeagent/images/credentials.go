package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"

	"lockstep/nodeagent/access"
)

// maxCredentials bounds a file of credentials, as the kubelet does.
const maxCredentials = 10 << 20

// credential is what the registry is shown. The zero value is anonymous.
type credential struct {
	username, password string
	from               *access.Secret // nil: the node has it
}

// access says who else may use what was pulled with the credential.
func (c credential) access() access.Access {
	if c.from == nil {
		return access.Access{Anyone: true}
	}
	return access.Access{Secrets: []access.Secret{*c.from}}
}

// keys are what an image may be pulled with.
type keys struct {
	credentials []credential // in the order in which they are tried; never none
	problems    []error      // why there may be too few
	unreadable  error        // a pull secret that is none; it would quote what it cannot read
}

// secrets are those of a pod among them.
func (k keys) secrets() []access.Secret {
	var out []access.Secret
	for _, c := range k.credentials {
		if c.from != nil {
			out = append(out, *c.from)
		}
	}
	return out
}

// keysFor picks those of the pull secrets, then of the node's own credentials, that are for the image's registry and repository,
// by the kubelet's rules; of each the most specific first. None means one anonymous try.
func (m *Manager) keysFor(name string, pullSecrets []corev1.Secret) keys {
	own, err := nodeCredentials(m.credentials)
	k := keys{}
	if err != nil {
		k.problems = append(k.problems, err)
	}
	keyring, err := secrets.MakeDockerKeyring(pullSecrets, own)
	if err != nil {
		k.unreadable = errors.New("cannot read a pull secret: it is not a registry configuration")
		keyring = own
	}
	found, _ := keyring.Lookup(repository(name))
	for _, f := range found {
		c := credential{username: f.Username, password: f.Password}
		switch {
		case f.IdentityToken != "":
			c = credential{password: f.IdentityToken}
		case f.RegistryToken != "":
			c = credential{password: f.RegistryToken}
		}
		if f.Source != nil && f.Source.Secret != nil {
			s := f.Source.Secret
			c.from = &access.Secret{UID: s.UID, Namespace: s.Namespace, Name: s.Name, Hash: f.AuthConfigHash}
		}
		k.credentials = append(k.credentials, c)
	}
	if len(k.credentials) == 0 {
		k.credentials = []credential{{}}
	}
	return k
}

// nodeCredentials are those of the first of the files that is there. The error names a file, and nothing that is in it.
func nodeCredentials(files []string) (*credentialprovider.BasicDockerKeyring, error) {
	keyring := &credentialprovider.BasicDockerKeyring{}
	for _, file := range files {
		st, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && (!st.Mode().IsRegular() || st.Size() > maxCredentials) {
			err = errors.New("it is no file of less than 10 MiB")
		}
		if err != nil {
			return keyring, fmt.Errorf("cannot read the node's credentials: %w", err)
		}
		config, err := credentialprovider.ReadSpecificDockerConfigJSONFile(file)
		if err != nil {
			return keyring, fmt.Errorf("cannot read the node's credentials: %s is not a registry configuration", file)
		}
		keyring.Add(nil, config)
		return keyring, nil
	}
	return keyring, nil
}
