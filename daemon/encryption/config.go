package encryption

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/storage/value"
	kubeaes "k8s.io/apiserver/pkg/storage/value/encrypt/aes"

	"lockstep/daemon/config"
	"lockstep/internal/sealed"
	"lockstep/kinds"
)

const (
	// configVersion and configKind are Kubernetes' own.
	configVersion = "apiserver.config.k8s.io/v1"
	configKind    = "EncryptionConfiguration"
	// maxConfig bounds the file: thousands of keys fit in it.
	maxConfig = 1 << 20
)

// Config is what an EncryptionConfiguration asks for. The zero value seals Secrets with the cluster's own keys.
type Config struct {
	// Path of the file; empty: there is none.
	Path string
	// providers by "<group>/<resource>", core for the group without a name; the first seals, all open.
	providers map[string][]provider
}

// provider is one way to seal; without a transformer it stores values as they are.
type provider struct {
	// name is how a value says with what it is sealed: "aesgcm:key1"; empty for identity.
	name string
	with value.Transformer
}

// Read reads an EncryptionConfiguration. Errors name the field, and leave it to the caller to name the file.
func Read(path string) (Config, error) {
	raw, err := readFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := parse(raw)
	c.Path = path
	return c, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(raw) > maxConfig {
		err = fmt.Errorf("it is larger than %d bytes", maxConfig)
	}
	return raw, err
}

// parse reads a document as Kubernetes does: a field that is not known is refused.
func parse(raw []byte) (Config, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var node config.Document
	if err := decoder.Decode(&node); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, errors.New("it is not YAML") // the library's error may show a key
	}
	if more := new(config.Document); !errors.Is(decoder.Decode(more), io.EOF) {
		return Config{}, errors.New("it has more than one document")
	}
	var doc apiserverv1.EncryptionConfiguration
	if err := config.Decode(&node, &doc); err != nil {
		return Config{}, fieldsOnly(err)
	}
	if doc.APIVersion != configVersion || doc.Kind != configKind {
		return Config{}, fmt.Errorf("want apiVersion %s and kind %s, got %q and %q", configVersion, configKind, doc.APIVersion, doc.Kind)
	}
	if len(doc.Resources) == 0 {
		return Config{}, errors.New("resources: at least one is required")
	}
	c := Config{providers: map[string][]provider{}}
	for i, r := range doc.Resources {
		if err := c.add(r); err != nil {
			return Config{}, fmt.Errorf("resources[%d].%w", i, err)
		}
	}
	return c, nil
}

// fieldsOnly keeps of an error what names fields: what comes of values may show a key.
func fieldsOnly(err error) error {
	text := err.Error()
	if strings.Contains(text, "unknown field") || strings.Contains(text, "duplicate field") {
		return err
	}
	return errors.New("it does not have the form of an " + configKind)
}

// add takes in one entry; of entries that are for one resource, the first counts.
func (c Config) add(r apiserverv1.ResourceConfiguration) error {
	if len(r.Resources) == 0 {
		return errors.New("resources: at least one is required")
	}
	if len(r.Providers) == 0 {
		return errors.New("providers: at least one is required")
	}
	var providers []provider
	for i, p := range r.Providers {
		made, err := providersOf(p)
		if err != nil {
			return fmt.Errorf("providers[%d]%w", i, err)
		}
		providers = append(providers, made...)
	}
	taken := map[string]bool{}
	for i, pattern := range r.Resources {
		names, err := resources(pattern)
		if err != nil {
			return fmt.Errorf("resources[%d]: %q %w", i, pattern, err)
		}
		for _, name := range names {
			if taken[name] {
				return fmt.Errorf("resources[%d]: %q is named twice in this list", i, pattern)
			}
			taken[name] = true
			if _, earlier := c.providers[name]; !earlier {
				c.providers[name] = providers
			}
		}
	}
	return nil
}

// resources are those that a pattern names, of those that are stored: secrets, deployments.apps, *.apps, *. (the core group) or *.*.
func resources(pattern string) ([]string, error) {
	want := schema.ParseGroupResource(pattern)
	switch {
	case pattern == "*":
		return nil, errors.New(`is not enough: *. is the core group, *.* is everything`)
	case want.Group == "*" && want.Resource != "*":
		return nil, errors.New("is of no group: one resource in every group makes no sense")
	}
	var out []string
	for _, k := range kinds.All {
		all := want.Resource == "*" && (want.Group == "*" || want.Group == k.Group)
		if all || want == k.GroupResource() {
			out = append(out, pathOf(k.GroupResource()))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("is no resource that is stored here")
	}
	return out, nil
}

// pathOf is a resource as etcd keys have it.
func pathOf(r schema.GroupResource) string {
	if r.Group == "" {
		return "core/" + r.Resource
	}
	return r.Group + "/" + r.Resource
}

// providersOf are the keys of one provider, in their order.
func providersOf(p apiserverv1.ProviderConfiguration) ([]provider, error) {
	stated := 0
	for _, is := range []bool{p.AESGCM != nil, p.AESCBC != nil, p.Secretbox != nil, p.Identity != nil, p.KMS != nil} {
		if is {
			stated++
		}
	}
	switch {
	case stated != 1:
		return nil, fmt.Errorf(": want one provider, got %d", stated)
	case p.AESCBC != nil:
		return nil, errors.New(".aescbc: is not supported, as what it stores can be changed unnoticed: use aesgcm or secretbox")
	case p.KMS != nil:
		return nil, errors.New(".kms: is not supported: use aesgcm or secretbox")
	case p.AESGCM != nil:
		return keysOf("aesgcm", p.AESGCM.Keys, []int{16, 24, 32}, newGCM)
	case p.Secretbox != nil:
		return keysOf("secretbox", p.Secretbox.Keys, []int{32}, newBox)
	}
	return []provider{{}}, nil
}

func newGCM(key []byte) (value.Transformer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return kubeaes.NewGCMTransformer(block)
}

func newBox(key []byte) (value.Transformer, error) { return box(key), nil }

// box is Kubernetes' secretbox as the cluster's own keys seal: for a place.
type box sealed.Key

// TransformToStorage implements value.Transformer.
func (b box) TransformToStorage(_ context.Context, data []byte, at value.Context) ([]byte, error) {
	return sealed.Key(b).Seal(string(at.AuthenticatedData()), data)
}

// TransformFromStorage implements value.Transformer.
func (b box) TransformFromStorage(_ context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	out, err := sealed.Key(b).Open(string(at.AuthenticatedData()), data)
	return out, false, err
}

func keysOf(kind string, keys []apiserverv1.Key, sizes []int, make func([]byte) (value.Transformer, error)) ([]provider, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf(".%s.keys: at least one is required", kind)
	}
	var out []provider
	for i, k := range keys {
		at := fmt.Sprintf(".%s.keys[%d]", kind, i)
		secret, err := base64.StdEncoding.DecodeString(k.Secret)
		switch {
		case k.Name == "":
			return nil, fmt.Errorf("%s.name: is required", at)
		case strings.ContainsAny(k.Name, ":\n"):
			return nil, fmt.Errorf("%s.name: has a colon or a line's end", at)
		case len(k.Name) > 253:
			return nil, fmt.Errorf("%s.name: is longer than 253 bytes", at)
		case slices.ContainsFunc(out, func(p provider) bool { return p.name == kind+":"+k.Name }):
			return nil, fmt.Errorf("%s.name: there is one of this name before", at)
		case err != nil:
			return nil, fmt.Errorf("%s.secret: is not base64", at)
		case !slices.Contains(sizes, len(secret)):
			return nil, fmt.Errorf("%s.secret: has %d bytes, want one of %v", at, len(secret), sizes)
		}
		with, err := make(secret)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		out = append(out, provider{name: kind + ":" + k.Name, with: with})
	}
	return out, nil
}
