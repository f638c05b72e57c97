// Package config reads the daemon's configuration, but for the scheduler's profiles.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/json"
	sigsyaml "sigs.k8s.io/yaml"

	"lockstep/internal/giturl"
	"lockstep/kinds/v1alpha1"
)

// maxFile bounds a configuration file: thousands of sources fit in it.
const maxFile = 10 << 20

// Document is one of a configuration file.
type Document = yaml.Node

// SchedulerKind is the kind of the document that declares the scheduler's profiles.
const SchedulerKind = "KubeSchedulerConfiguration"

// Read returns the sources of a configuration file: YAML documents, each a Source of lockstep.dev/v1alpha1. Those of SchedulerKind are
// handed to profiles. Paths of credentials are relative to the file's folder. Every error names the file and the document's line.
func Read(path string, profiles func(*Document) error) (out []v1alpha1.Source, _ error) {
	info, err := os.Stat(path)
	if err != nil {
		return out, fmt.Errorf("cannot read configuration: %w", err)
	}
	if info.Size() > maxFile {
		return out, fmt.Errorf("cannot read configuration %s: it is larger than %d bytes", path, maxFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return out, fmt.Errorf("cannot read configuration: %w", err)
	}
	var errs []error
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var node yaml.Node
		if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return out, fmt.Errorf("cannot read configuration %s: %w", path, err)
		}
		if node.Kind == 0 || len(node.Content) == 0 || node.Content[0].Tag == "!!null" {
			continue
		}
		if kind := child(node.Content[0], "kind"); kind != nil && kind.Value == SchedulerKind {
			if err := profiles(&node); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: cannot use %s: %w", path, node.Content[0].Line, SchedulerKind, err))
			}
			continue
		}
		source, err := decode(&node)
		if err == nil {
			absolute(&source, filepath.Dir(path))
			err = Validate(&source)
			errs = append(errs, ignored(path, &node, &source)...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", path, node.Content[0].Line, err))
			continue
		}
		out = append(out, source)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, Unique(out)
}

// ignored says which patterns of ignoreKinds mean nothing, each with its own line.
func ignored(path string, node *yaml.Node, s *v1alpha1.Source) (errs []error) {
	at := child(child(node.Content[0], "spec"), "ignoreKinds")
	for i, pattern := range s.Spec.IgnoreKinds {
		if wrong := v1alpha1.WrongIgnoreKind(pattern); wrong != "" {
			line := node.Content[0].Line
			if at != nil && i < len(at.Content) {
				line = at.Content[i].Line
			}
			errs = append(errs,
				fmt.Errorf("%s:%d: cannot use source %s: spec.ignoreKinds[%d]: %q %s", path, line, s.Name, i, pattern, wrong))
		}
	}
	return errs
}

// child is the value of a mapping's key; nil where there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Decode reads a document. A field that is not known, or stands twice, is an error.
func Decode(node *Document, into any) error {
	text, err := yaml.Marshal(node)
	if err != nil {
		return err
	}
	raw, err := sigsyaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	return Strictly(raw, into)
}

// Strictly reads JSON as Decode reads a document.
func Strictly(raw []byte, into any) error {
	strict, err := json.UnmarshalStrict(raw, into)
	if err == nil && len(strict) > 0 {
		err = runtime.NewStrictDecodingError(strict)
	}
	return err
}

func decode(node *yaml.Node) (v1alpha1.Source, error) {
	var source v1alpha1.Source
	if err := Decode(node, &source); err != nil {
		return source, err
	}
	if want := v1alpha1.GroupVersion.String(); source.APIVersion != want || source.Kind != "Source" {
		return source, fmt.Errorf("want apiVersion %s and kind Source, got %q and %q", want, source.APIVersion, source.Kind)
	}
	return source, nil
}

func absolute(s *v1alpha1.Source, dir string) {
	paths := []*string{&s.Spec.Folder}
	if c := s.Spec.Credentials; c != nil {
		paths = append(paths, &c.TokenFile, &c.UsernameFile, &c.PasswordFile, &c.SSHKeyFile, &c.KnownHostsFile, &c.CAFile)
	}
	if f := s.Spec.Forge; f != nil {
		paths = append(paths, &f.TokenFile, &f.CAFile, &f.WebhookSecretFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// ParseFlag reads the short form of a source: [NAME=]URL|FOLDER[#BRANCH[:PATH]]. Without a name, it is the last element
// of the URL or folder. A folder must exist.
func ParseFlag(text string) (v1alpha1.Source, error) {
	s := v1alpha1.Source{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"}}
	where := text
	if name, rest, ok := strings.Cut(text, "="); ok && len(validation.IsDNS1123Subdomain(name)) == 0 {
		s.Name, where = name, rest
	}
	text = giturl.Text(text) // for errors
	where, reference, _ := strings.Cut(where, "#")
	s.Spec.Branch, s.Spec.Path, _ = strings.Cut(reference, ":")

	if where == "" {
		return s, fmt.Errorf("cannot read source %q: it names no URL or folder", text)
	}
	if strings.Contains(where, "://") || giturl.Short(where) || giturl.Redact(where) != where {
		if err := giturl.Check(where); err != nil { // before a name is made of it
			return s, fmt.Errorf("cannot read source %q: the URL %w", text, err)
		}
		s.Spec.URL = where
	} else {
		folder, err := filepath.Abs(where)
		if err != nil {
			return s, fmt.Errorf("cannot read source %q: %w", text, err)
		}
		if info, err := os.Stat(folder); err != nil {
			return s, fmt.Errorf("cannot read source %q: %w (a Git repository is named by a URL, https://…)", text, err)
		} else if !info.IsDir() {
			return s, fmt.Errorf("cannot read source %q: it is not a folder", text)
		}
		if reference != "" {
			return s, fmt.Errorf("cannot read source %q: a folder has no branch", text)
		}
		s.Spec.Folder, where = folder, folder
	}
	if s.Name == "" {
		s.Name = nameOf(where)
	}
	return s, Validate(&s)
}

var notInName = regexp.MustCompile(`[^a-z0-9.-]+`)

func nameOf(where string) string {
	where = strings.TrimSuffix(strings.TrimRight(where, "/"), ".git")
	name := where[strings.LastIndexAny(where, "/:")+1:]
	name = strings.Trim(notInName.ReplaceAllString(strings.ToLower(name), "-"), "-.")
	if name == "" {
		return "main"
	}
	return name
}

// Validate says what is wrong with a source as a person wrote it.
func Validate(s *v1alpha1.Source) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Name == "" {
		bad("metadata.name: is required")
	} else if messages := validation.IsDNS1123Subdomain(s.Name); len(messages) > 0 {
		bad("metadata.name: %q: %s", s.Name, messages[0])
	}
	if (s.Spec.URL == "") == (s.Spec.Folder == "") {
		bad("spec: exactly one of url and folder is required")
	}
	if s.Spec.URL != "" {
		if err := giturl.Check(s.Spec.URL); err != nil {
			bad("spec.url: %w", err)
		}
	}
	if s.Spec.Folder != "" && (s.Spec.Branch != "" || s.Spec.Tag != "" || s.Spec.Forge != nil) {
		bad("spec: a folder has no branch, tag or forge")
	}
	if s.Spec.Branch != "" && s.Spec.Tag != "" {
		bad("spec: branch and tag exclude each other")
	}
	if p := s.Spec.Path; p != "" && !filepath.IsLocal(p) {
		bad("spec.path: %q leads out of the tree", p)
	}
	if s.Spec.Interval.Duration < 0 || s.Spec.Timeout.Duration < 0 {
		bad("spec: interval and timeout must not be negative")
	}
	if d := s.Spec.Interval.Duration; d > 0 && d < time.Second {
		bad("spec.interval: %s is shorter than a second", d)
	}
	if s.Spec.Prune != "" && s.Spec.Prune != "allow" {
		bad("spec.prune: want allow or nothing, got %q", s.Spec.Prune)
	}
	if d := s.Spec.Drift; d != "" && d != v1alpha1.DriftRepair && d != v1alpha1.DriftReport {
		bad("spec.drift: want repair, report or nothing, got %q", d)
	}
	if f := s.Spec.Forge; f != nil && f.Type != "gitea" {
		bad("spec.forge.type: want gitea, got %q", f.Type)
	}
	if f := s.Spec.Forge; f != nil && f.URL != "" {
		if err := giturl.Check(f.URL); err != nil {
			bad("spec.forge.url: %w", err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		name := s.Name
		if name == "" {
			name = giturl.Redact(s.Spec.URL) + s.Spec.Folder
		}
		return fmt.Errorf("cannot use source %s: %w", name, err)
	}
	return nil
}

// Unique refuses two sources of the same name.
func Unique(sources []v1alpha1.Source) error {
	seen := map[string]bool{}
	for _, s := range sources {
		if seen[s.Name] {
			return fmt.Errorf("cannot use source %s: it is there twice (NAME=… gives a name)", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

// Resolve reads what a person names a source by: the name of a configured one, of which only the name is returned, or
// the short form of ParseFlag.
func Resolve(text string, configured func(name string) bool) (v1alpha1.Source, error) {
	if configured(text) {
		s := v1alpha1.Source{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Source"}}
		s.Name = text
		return s, nil
	}
	return ParseFlag(text)
}
