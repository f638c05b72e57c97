package validate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lockstep/sync/manifest/validate"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"validate": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }})
}

// run is what a command line makes of Run: --ignore KIND before the paths, exit 1 for errors in manifests, 2 for others.
func run(args []string, out, errs io.Writer) int {
	var opts validate.Options
	for len(args) > 1 && args[0] == "--ignore" {
		opts.IgnoreKinds = append(opts.IgnoreKinds, args[1])
		args = args[2:]
	}
	switch err := validate.Run(context.Background(), args, opts, out); {
	case err == nil:
		return 0
	case errors.Is(err, validate.ErrInvalid):
		return 1
	default:
		fmt.Fprintln(errs, err)
		return 2
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != ""})
}
