package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
)

// importLabel marks an image that came from a file; the value tells the file's state. Such an image is not removed
// when the disk is full: no registry may have it.
const importLabel = "lockstep.dev/imported"

// importTimeout bounds the import of one file.
const importTimeout = 30 * time.Minute

// Import loads the archives in dir (`*.tar`, also gzip or zstd compressed; docker-archive or OCI layout) that changed
// since they were last loaded, and returns the names of the images that came. Names in archives are normalised; an OCI
// archive that has a tag only takes its file's name. It goes on past a bad file and returns the errors joined. A
// directory that does not exist has no files.
func (m *Manager) Import(ctx context.Context, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	loaded, err := m.loaded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot import images: %w", err)
	}
	var names []string
	var errs []error
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() || !isArchive(e.Name()) {
			continue
		}
		state := fmt.Sprintf("%s:%d:%d", e.Name(), info.Size(), info.ModTime().UnixNano())
		if loaded[state] {
			continue
		}
		came, err := m.importFile(ctx, filepath.Join(dir, e.Name()), state)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot import images of %s: %w", e.Name(), err))
		}
		names = append(names, came...)
	}
	sort.Strings(names)
	return names, errors.Join(errs...)
}

// loaded lists the states of files whose images are all here.
func (m *Manager) loaded(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(m.context(ctx), inspectTimeout)
	defer cancel()
	stored, err := m.client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	loaded := map[string]bool{}
	for _, image := range stored {
		state, ok := image.Labels[importLabel]
		if !ok {
			continue
		}
		available, _, _, missing, err := images.Check(ctx, m.client.ContentStore(), image.Target, platforms.Default())
		whole := err == nil && available && len(missing) == 0
		if before, known := loaded[state]; known {
			whole = whole && before
		}
		loaded[state] = whole
	}
	return loaded, nil
}

func isArchive(name string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func (m *Manager) importFile(ctx context.Context, path, state string) ([]string, error) {
	ctx, cancel := context.WithTimeout(m.context(ctx), importTimeout)
	defer cancel()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	archive, err := compression.DecompressStream(f)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	stem, _, _ := strings.Cut(filepath.Base(path), ".")
	came, err := m.client.Import(ctx, archive,
		client.WithImageRefTranslator(func(ref string) string { return archiveName(stem, ref) }),
		client.WithImageLabels(map[string]string{importLabel: state}),
		client.WithImportPlatform(platforms.Default()),
		client.WithSkipMissing())
	if err != nil {
		return nil, err
	}
	if len(came) == 0 {
		return nil, errors.New("no image in it has a name")
	}
	var names []string
	var errs []error
	for _, image := range came {
		if err := m.unpack(ctx, client.NewImage(m.client, image)); err != nil {
			errs = append(errs, fmt.Errorf("cannot unpack %s: %w", image.Name, err))
			continue
		}
		names = append(names, image.Name)
	}
	return names, errors.Join(errs...)
}

// archiveName is the full name for what an archive calls an image: a name, or, in some OCI archives, a bare tag.
func archiveName(stem, ref string) string {
	if ref == "" {
		return ""
	}
	if !strings.ContainsAny(ref, ":/@") {
		ref = stem + ":" + ref
	}
	name, err := Normalize(ref)
	if err != nil {
		return ""
	}
	return name
}
