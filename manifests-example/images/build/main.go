// Command build packs the example's programs, given as NAME=PROGRAM, into image tars in a folder.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"lockstep/lab/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("cannot build images: want FOLDER NAME=PROGRAM…")
	}
	for _, pair := range args[1:] {
		name, program, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("cannot build image %q: want NAME=PROGRAM", pair)
		}
		file, err := image.Program(program, "/app")
		if err != nil {
			return err
		}
		img := image.Image{Files: []image.File{file}, Entrypoint: []string{"/app"}, User: "65532", Arch: runtime.GOARCH}
		tar := filepath.Join(args[0], name+".tar")
		if err := img.Save(tar, "lockstep.example/"+name+":1"); err != nil {
			return err
		}
		fmt.Println(tar)
	}
	return nil
}
