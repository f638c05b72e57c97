// Package validate checks manifests on disk without a cluster, for pre-commit hooks and CI.
package validate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"lockstep/internal/settings"
	"lockstep/kinds/v1alpha1"
	"lockstep/sync/manifest"
	"lockstep/sync/render"
)

// ErrInvalid says that the manifests have errors, which are printed: exit 1 without saying more.
var ErrInvalid = errors.New("the manifests have errors")

// Options are optional.
type Options struct {
	// IgnoreKinds are kinds to skip, as in a source's ignoreKinds; one that is no pattern is an error.
	IgnoreKinds []string
	// NodePorts are those of the cluster that the manifests are for. The zero value: settings.Default's.
	NodePorts settings.Ports
	// In is what the path "-" reads. Nil: nothing.
	In io.Reader
}

// Run reads the manifests that paths name, files and folders, as one source would, and prints to out every error, one a
// line as file:line:column: …, or how many objects are valid. A folder is read as a source reads it; a file that is
// named itself is read whatever its name is. Whether namespaces exist in a cluster is not asked. It returns nil,
// ErrInvalid where it printed errors, or why it could not read or print. It returns soon after ctx has ended.
func Run(ctx context.Context, paths []string, opts Options, out io.Writer) error {
	if len(paths) == 0 {
		return errors.New("cannot validate nothing: name files or folders")
	}
	for _, pattern := range opts.IgnoreKinds {
		if wrong := v1alpha1.WrongIgnoreKind(pattern); wrong != "" {
			return fmt.Errorf("cannot validate: --ignore-kinds %q %s", pattern, wrong)
		}
	}
	found := finder{seen: map[string]bool{}}
	for _, path := range paths {
		if path == "-" && opts.In != nil {
			found.input(opts.In)
			continue
		}
		if err := found.add(ctx, filepath.Clean(path)); err != nil {
			return fmt.Errorf("cannot validate %s: %w", path, err)
		}
	}
	set, errs := render.NewReader(render.All()...).Read(ctx, found.files, manifest.Options{IgnoreKinds: opts.IgnoreKinds})
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot validate: %w", err)
	}
	errs = slices.Concat(found.errs, errs, outOfRange(set, opts.NodePorts))
	if len(errs) > 0 {
		if _, err := fmt.Fprintln(out, errs); err != nil {
			return fmt.Errorf("cannot print the errors: %w", err)
		}
		return ErrInvalid
	}
	warning := ""
	switch {
	case len(found.files) == 0:
		warning = fmt.Sprintf("warning: no manifest is in %s; their names end in .yaml, .yml or .json\n", strings.Join(paths, ", "))
	case len(set.Objects) == 0 && len(opts.IgnoreKinds) > 0:
		warning = fmt.Sprintf("warning: no manifest is in %s but of kinds that are ignored\n", strings.Join(paths, ", "))
	case len(set.Objects) == 0:
		warning = fmt.Sprintf("warning: no manifest is in %s\n", strings.Join(paths, ", "))
	}
	if _, err := io.WriteString(out, warning); err != nil {
		return fmt.Errorf("cannot print the result: %w", err)
	}
	left := ""
	if len(set.LeftOut) > 0 {
		left = "; " + set.LeftOut.String()
	}
	if _, err := fmt.Fprintf(out, "%s in %s %s valid%s\n", count(len(set.Objects), "object"), count(len(found.files), "file"),
		verb(len(set.Objects)), left); err != nil {
		return fmt.Errorf("cannot print the result: %w", err)
	}
	return nil
}

// outOfRange are the node ports that the cluster does not have; none of no set.
func outOfRange(set *render.Set, ports settings.Ports) (errs manifest.Errors) {
	if set == nil {
		return nil
	}
	if ports.None() {
		ports = settings.Default().NodePorts
	}
	for _, o := range set.Objects {
		s, ok := o.Object.Object.(*corev1.Service)
		if !ok {
			continue
		}
		for i, p := range s.Spec.Ports {
			if reason := ports.Refuses(p.NodePort); p.NodePort != 0 && reason != "" {
				errs = append(errs, set.ErrorAt(o.Key, fmt.Sprintf("spec.ports[%d].nodePort", i), reason))
			}
		}
	}
	return errs
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func verb(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
