package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lockstep/internal/kubectl"
	"lockstep/lab/programs"
)

// bin has lockstep, and in images the example's images.
var bin string

func TestMain(m *testing.M) {
	kubectl.Main()
	programs.Main(m, "the tests of a node", prepare)
}

// prepare takes what `make build images` made from $LOCKSTEP_BIN, or makes it.
func prepare(dir string) error {
	if bin = os.Getenv("LOCKSTEP_BIN"); bin != "" {
		return nil
	}
	bin = dir
	example := "lockstep/manifests-example/images/"
	if err := programs.Build(dir, map[string]string{"lockstep": "lockstep", "web": example + "web", "api": example + "api",
		"build": example + "build"}); err != nil {
		return err
	}
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	out, err := exec.Command(filepath.Join(dir, "build"), images, "harbour-web="+filepath.Join(dir, "web"),
		"harbour-api="+filepath.Join(dir, "api")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot build the example's images: %w: %s", err, out)
	}
	return nil
}
