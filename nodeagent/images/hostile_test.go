package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
)

// imageOf is an image of layers that have just those entries.
func imageOf(t *testing.T, layers ...[]*tar.Header) v1.Image {
	t.Helper()
	image := empty.Image
	file, err := image.ConfigFile()
	if err == nil {
		file = file.DeepCopy()
		file.OS, file.Architecture = "linux", runtime.GOARCH
		image, err = mutate.ConfigFile(image, file)
	}
	for _, entries := range layers {
		var data bytes.Buffer
		w := tar.NewWriter(&data)
		for _, h := range entries {
			h.Format = tar.FormatPAX
			if h.Mode == 0 {
				h.Mode = 0o755
			}
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(len("evil"))
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				if _, err := w.Write([]byte("evil")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layer, layerErr := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data.Bytes())), nil
		})
		if layerErr != nil {
			t.Fatal(layerErr)
		}
		if err == nil {
			image, err = mutate.AppendLayers(image, layer)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestHostileLayers unpacks layers that try to write, link and remove outside of their root file system, each pulled and each
// from an archive: nothing of the machine changes, whether the image is refused or not.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	symlink := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	for what, layers := range map[string][][]*tar.Header{
		"a path upwards":            {{file(up + outside + "/new")}},
		"an absolute path":          {{file(outside + "/new")}},
		"through a link":            {{symlink("d", outside), file("d/new"), file("d/secret")}},
		"through a link upwards":    {{symlink("d", up+outside), file("d/new")}},
		"a link of the layer below": {{symlink("d", outside)}, {file("d/new"), file("d/.wh.secret"), file("d/.wh..wh..opq")}},
		"onto a link":               {{symlink("f", secret), file("f")}},
		"a hard link":               {{hard("f", up+secret), file("f")}},
		"a hard link absolute":      {{hard("f", secret), file("f")}},
		"a hard link by a link":     {{symlink("d", outside), hard("f", "d/secret")}, {file("f")}},
		"a whiteout upwards":        {{file(up + outside + "/.wh.secret")}},
		"a whiteout of the parent":  {{file(".wh..."), file(".wh..")}},
		"a mode by a link": {{symlink("d", outside), {Typeflag: tar.TypeDir, Name: "d", Mode: 0o777}},
			{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o777}}},
		"an owner by a link": {{symlink("f", secret),
			{Typeflag: tar.TypeSymlink, Name: "f", Linkname: secret, Uid: 1000, Gid: 1000, Mode: 0o777}}},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			image := imageOf(t, layers...)
			f.pushImage("library/evil:1", image)
			_, _, err := f.ensure(Request{Image: "evil:1"})
			dir := t.TempDir()
			tag, tagErr := name.NewTag("docker.io/library/tarred:1")
			if tagErr != nil {
				t.Fatal(tagErr)
			}
			if err := tarball.WriteToFile(filepath.Join(dir, "evil.tar"), tag, image); err != nil {
				t.Fatal(err)
			}
			_, importErr := f.Import(testContext(t), dir)
			_, _, unpackErr := f.ensure(Request{Image: "tarred:1", Policy: corev1.PullNever})
			t.Log(err, "\n", importErr, "\n", unpackErr)
			if got := tree(t, outside); got != "d drwxr-xr-x 0 /\n- -rw------- 0 /secret kept\n" {
				t.Fatalf("outside is now\n%s", got)
			}
		})
	}
}

// tree shows a folder: type, mode, owner, path and content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		owner := ownerOf(info)
		if d.IsDir() {
			fmt.Fprintf(&out, "d %s %d %s\n", info.Mode(), owner, filepath.Join("/", path))
			return nil
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		fmt.Fprintf(&out, "- %s %d %s %s\n", info.Mode(), owner, filepath.Join("/", path), data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestLyingRegistry: a registry that never sends what a digest says has its image refused, and nothing of it is kept; so has an
// archive with other bytes than its index names.
func TestLyingRegistry(t *testing.T) {
	f := newFixture(t)
	image := f.push("library/app:1")
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := layers[0].Digest()
	size, _ := layers[0].Size()
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = w.Write(make([]byte, size))
		return true
	}
	f.handle.Store(&handle)
	if _, events, err := f.ensure(Request{Image: "app:1"}); err == nil || !strings.Contains(err.Error(), digest.String()) {
		t.Errorf("got %v\n%s", err, events)
	}
	ctx := f.context(testContext(t))
	if _, err := containerd.ContentStore().Info(ctx, digestOf(digest.String())); err == nil {
		t.Error("the wrong layer is kept")
	}
	if _, _, err := f.ensure(Request{Image: "app:1", Policy: corev1.PullNever}); err == nil {
		t.Error("the image is there")
	}

	dir := t.TempDir()
	archive := filepath.Join(dir, "app.oci.tar")
	writeOCI(t, archive, image, "v1")
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	blob := bytes.Index(data, []byte("blobs/sha256/"+digest.Hex))
	if blob < 0 {
		t.Fatal("the archive has no such layer")
	}
	data[blob+512+int(size)/2] ^= 0xff // a header is a block
	if err := os.WriteFile(archive, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Import(testContext(t), dir); err == nil || !strings.Contains(err.Error(), "app.oci.tar") {
		t.Errorf("an archive with other bytes: %v", err)
	}
}

// TestSignedAddresses: where a registry sends who may pull is told to nobody, whatever becomes of it.
func TestSignedAddresses(t *testing.T) {
	f := newFixture(t)
	layers, err := f.push("library/app:1").Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := layers[0].Digest()
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/store"):
			w.WriteHeader(http.StatusForbidden)
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, digest.String()):
			http.Redirect(w, r, "http://key:hunter2@"+r.Host+"/store?Signature=hunter2&x=y", http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	}
	f.handle.Store(&handle)
	for range 2 { // the second is told of by the first's back-off
		_, events, err := f.ensure(Request{Image: "app:1"})
		if err == nil || !strings.Contains(err.Error(), "/store?[REDACTED]") || strings.Contains(fmt.Sprint(err, events), "hunter2") {
			t.Errorf("%v, %s", err, events)
		}
	}
}

// TestTold: what is told of a failure has no secret of an address, and an end.
func TestTold(t *testing.T) {
	for text, want := range map[string]string{
		`Get "https://u:p@a/b?c=d&e=f": EOF`: `Get "https://[REDACTED]@a/b?[REDACTED]": EOF`,
		"GET request to http://a/b?c: 403":   "GET request to http://a/b?[REDACTED] 403",
		"http://a/b@sha256:1 and a@b?c":      "http://a/b@sha256:1 and a@b?c",
	} {
		if got := told(errors.New(text)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := told(errors.New(strings.Repeat("é", maxTold))); len(got) > maxTold+3 || !utf8.ValidString(got) {
		t.Errorf("%d bytes", len(got))
	}
}

func ownerOf(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
