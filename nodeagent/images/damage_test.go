package images

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
)

// blob is where containerd keeps content.
func blob(t *testing.T, digest string) string {
	t.Helper()
	path := filepath.Join(containerdDir, "root/io.containerd.content.v1.content/blobs/sha256", strings.TrimPrefix(digest, "sha256:"))
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// spoil is what a power cut makes of a file: shorter, empty, or full of zeros.
func spoil(t *testing.T, path, how string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		switch how {
		case "cut":
			data = data[:len(data)/2]
		case "empty":
			data = nil
		case "zeros":
			data = make([]byte, len(data))
		}
		err = os.Remove(path) // it is read-only
	}
	if err == nil {
		err = os.WriteFile(path, data, 0o444)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSpoiledContent: blobs of an image that is not unpacked any more are damaged. It is pulled again, not tried for ever.
func TestSpoiledContent(t *testing.T) {
	for _, how := range []string{"cut", "empty", "zeros"} {
		for _, part := range []string{"manifest", "config", "layer"} {
			t.Run(part+" "+how, func(t *testing.T) {
				f := newFixture(t)
				pushed := f.push("library/app:1")
				image, _, err := f.ensure(Request{Image: "app:1"})
				if err != nil {
					t.Fatal(err)
				}
				f.dropLayers(image)
				spoil(t, blob(t, partOf(t, pushed, part)), how)
				clear(f.known)
				before := f.got("/")
				if _, events, err := f.ensure(Request{Image: "app:1"}); err != nil || f.got("/") == before {
					t.Errorf("%v\n%s", err, events)
				}
				f.whole("app:1")
			})
		}
	}
}

// TestSpoiledContentIsNotUsed: a pull that meets a damaged blob of an earlier one fetches it anew.
func TestSpoiledContentIsNotUsed(t *testing.T) {
	f := newFixture(t)
	pushed := f.push("library/app:1")
	image, _, err := f.ensure(Request{Image: "app:1"})
	if err != nil {
		t.Fatal(err)
	}
	f.dropLayers(image)
	spoil(t, blob(t, partOf(t, pushed, "layer")), "zeros")
	if _, events, err := f.ensure(Request{Image: "app:1", Policy: corev1.PullAlways}); err != nil {
		t.Errorf("%v\n%s", err, events)
	}
	f.whole("app:1")
}

// TestPowerCut: what came before the machine was started, and was not on the disk for sure, is looked at and unpacked anew; what
// was, is not read.
func TestPowerCut(t *testing.T) {
	f := newFixture(t)
	pushed := f.push("library/app:1")
	image, _, err := f.ensure(Request{Image: "app:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := f.context(testContext(t))
	labels := func() map[string]string {
		record, err := f.client.ImageService().Get(ctx, "docker.io/library/app:1")
		if err != nil {
			t.Fatal(err)
		}
		return record.Labels
	}
	if got := labels(); got[settledLabel] == "" || got[pulledLabel] != f.boot {
		t.Fatalf("labels %v", got)
	}
	spoil(t, blob(t, partOf(t, pushed, "layer")), "zeros")
	f.boot = "the next"
	clear(f.known)
	before := f.got("/")
	if _, _, err := f.ensure(Request{Image: "app:1"}); err != nil || f.got("/") != before {
		t.Errorf("what is on the disk: %v, asked %d times", err, f.got("/")-before)
	}
	unsettled := images.Image{Name: image.Name, Target: image.Containerd.Target(), Labels: map[string]string{settledLabel: ""}}
	if _, err := f.client.ImageService().Update(ctx, unsettled, "labels."+settledLabel); err != nil {
		t.Fatal(err)
	}
	clear(f.known)
	if _, events, err := f.ensure(Request{Image: "app:1"}); err != nil || f.got("/") == before {
		t.Errorf("what may be damaged: %v\n%s", err, events)
	}
	if got := labels(); got[settledLabel] == "" || got[pulledLabel] != f.boot {
		t.Errorf("labels %v", got)
	}
	f.whole("app:1")
}

// TestLayersAreKept: where a containerd keeps no blobs of what it has unpacked, that is not given up for what cannot be had again.
func TestLayersAreKept(t *testing.T) {
	f := newFixture(t)
	pushed := f.push("library/app:1")
	image, _, err := f.ensure(Request{Image: "app:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := f.context(testContext(t))
	if err := f.client.ContentStore().Delete(ctx, digest.Digest(partOf(t, pushed, "layer"))); err != nil {
		t.Fatal(err)
	}
	unsettled := images.Image{Name: image.Name, Target: image.Containerd.Target(), Labels: map[string]string{settledLabel: ""}}
	if _, err := f.client.ImageService().Update(ctx, unsettled, "labels."+settledLabel); err != nil {
		t.Fatal(err)
	}
	f.boot = "the next"
	clear(f.known)
	if _, err := f.Get(ctx, "app:1"); err != nil {
		t.Error(err)
	}
}

// dropLayers removes what was unpacked of an image, the topmost layer first.
func (f *fixture) dropLayers(image *Image) {
	f.t.Helper()
	ctx := f.context(testContext(f.t))
	layers, err := image.Containerd.RootFS(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	for n := len(layers); n > 0; n-- {
		if err := f.client.SnapshotService(f.snapshotter).Remove(ctx, identity.ChainID(layers[:n]).String()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// whole wants that every blob of an image is what it says, and the image unpacked.
func (f *fixture) whole(name string) {
	f.t.Helper()
	ctx := f.context(testContext(f.t))
	image, err := f.Get(ctx, name)
	if err != nil {
		f.t.Fatal(err)
	}
	parts := f.partsOf(ctx, image.Containerd.Target())
	if len(parts) != 4 {
		f.t.Errorf("%d parts", len(parts))
	}
	for _, d := range parts {
		if sound, err := f.sound(ctx, d); !sound || err != nil {
			f.t.Errorf("%s: sound %v, %v", d.MediaType, sound, err)
		}
		if _, err := f.client.ContentStore().Info(ctx, d.Digest); err != nil {
			f.t.Error(err)
		}
	}
	if unpacked, err := image.Containerd.IsUnpacked(ctx, f.snapshotter); err != nil || !unpacked {
		f.t.Errorf("unpacked %v, %v", unpacked, err)
	}
}

func partOf(t *testing.T, image v1.Image, part string) string {
	t.Helper()
	var h v1.Hash
	var err error
	switch part {
	case "manifest":
		h, err = image.Digest()
	case "config":
		h, err = image.ConfigName()
	case "layer":
		var layers []v1.Layer
		if layers, err = image.Layers(); err == nil {
			h, err = layers[0].Digest()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// TestNoImage: what a registry has by that name is no image. It is refused in words, left alone for a while, and nothing of it stays
// to be used.
func TestNoImage(t *testing.T) {
	text := func(text string, kind types.MediaType) v1.Layer { return static.NewLayer([]byte(text), kind) }
	page := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>sign in</html>"))
		return true
	}
	for name, c := range map[string]struct {
		layer  v1.Layer
		answer func(http.ResponseWriter, *http.Request) bool
	}{
		"a page":          {text("x", types.OCILayer), page},
		"a layer of text": {text("no archive", types.OCILayer), nil},
		"a layer of gzip": {text("no archive", types.DockerLayer), nil},
		"an artifact":     {text("a: b", "application/yaml"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			image, err := mutate.AppendLayers(empty.Image, c.layer)
			if err != nil {
				t.Fatal(err)
			}
			f.pushImage("library/no:1", image)
			if c.answer != nil {
				f.handle.Store(&c.answer)
			}
			_, events, err := f.ensure(Request{Image: "no:1"})
			e, ok := err.(*Error)
			if !ok || e.Reason != ReasonErrImagePull || !strings.Contains(events, `Warning Failed Failed to pull image "no:1": `) {
				t.Fatalf("%v\n%s", err, events)
			}
			t.Log(e.Message)
			if _, _, err := f.ensure(Request{Image: "no:1"}); err.(*Error).Reason != ReasonImagePullBackOff {
				t.Errorf("the second time: %v", err)
			}
			if _, _, err := f.ensure(Request{Image: "no:1", Policy: corev1.PullNever}); err.(*Error).Reason != ReasonErrImageNeverPull {
				t.Errorf("without pulling: %v", err)
			}
			if c.answer != nil {
				return
			}
			f.push("library/was:1")
			was, _, err := f.ensure(Request{Image: "was:1"})
			if err != nil {
				t.Fatal(err)
			}
			f.pushImage("library/was:1", image)
			if _, _, err := f.ensure(Request{Image: "was:1", Policy: corev1.PullAlways}); err == nil {
				t.Error("it is used")
			}
			if is, _, err := f.ensure(Request{Image: "was:1", Policy: corev1.PullNever}); err != nil || is.ID != was.ID {
				t.Errorf("the image that was there before: %v", err)
			}
		})
	}
}

// TestParallel: with a bound of two, two of five pulls go on at a time; without, one that hangs holds up no other for long.
func TestParallel(t *testing.T) {
	f := newFixture(t)
	f.pulls = newLanes(2)
	var now, most atomic.Int32
	release := make(chan struct{})
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-release
			now.Add(-1)
		}
		return false
	}
	for i := range 5 {
		f.push(fmt.Sprintf("library/app%d:1", i))
	}
	f.handle.Store(&handle)
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			if _, err := f.Ensure(testContext(t), Request{Image: fmt.Sprintf("app%d:1", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	if n := now.Load(); n != 2 {
		t.Errorf("%d pulls go on", n)
	}
	close(release)
	all.Wait()
	if most.Load() != 2 {
		t.Errorf("at most %d at a time", most.Load())
	}
}

// TestProgress: who waits for a pull hears how far it is.
func TestProgress(t *testing.T) {
	f := newFixture(t)
	f.tellEvery = 10 * time.Millisecond
	image := f.push("library/app:1")
	layer := partOf(t, image, "layer")
	half, heard := make(chan struct{}), make(chan struct{})
	handle := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, layer) {
			return false
		}
		data := firstLayer(t, image)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		close(half)
		<-heard
		_, _ = w.Write(data[len(data)/2:])
		return true
	}
	f.handle.Store(&handle)
	var once sync.Once
	var done, of int64
	_, err := f.Ensure(testContext(t), Request{Image: "app:1", Progress: func(d, o int64) {
		select {
		case <-half:
			if d > 32<<10 {
				once.Do(func() { done, of = d, o; close(heard) })
			}
		default:
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(firstLayer(t, image)))
	if of < 2*size || of > 3*size || done < size/2 || done >= of {
		t.Errorf("%d of %d, a layer has %d", done, of, size)
	}
	if got := Pulling("a:1", 3<<19, 40<<20); got != `Pulling image "a:1": 1.5 of 40.0 MiB` {
		t.Error(got)
	}
}

func firstLayer(t *testing.T, image v1.Image) []byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	in, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var data bytes.Buffer
	if _, err := data.ReadFrom(in); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// TestIndexBomb: of an image whose indexes name each other a hundred times, each is looked at once.
func TestIndexBomb(t *testing.T) {
	f := newFixture(t)
	ctx := f.context(testContext(t))
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	for level := range 5 {
		data, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex,
			Manifests: slices.Repeat([]ocispec.Descriptor{target}, 100)})
		if err != nil {
			t.Fatal(err)
		}
		target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(data), Size: int64(len(data))}
		err = content.WriteBlob(ctx, containerd.ContentStore(), fmt.Sprint("bomb-", level), bytes.NewReader(data), target,
			content.WithLabels(map[string]string{"containerd.io/gc.root": "test"}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if parts := f.partsOf(ctx, target); len(parts) != 6 || ctx.Err() != nil {
		t.Errorf("%d parts, %v", len(parts), ctx.Err())
	}
}
