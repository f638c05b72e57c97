// Package render makes manifests of a source's files.
package render

import (
	"context"

	"lockstep/sync/manifest"
	"lockstep/sync/origin"
)

// Renderer makes manifests of the files that it knows how to read.
type Renderer interface {
	// Render returns the manifests that some of the files make, and the files that it leaves to others. What it takes makes
	// its manifests or errors, never neither, unless ctx has ended: then it returns soon, and what it returns means nothing.
	// It reads no file that it leaves, and changes nothing that it is given. No files make no manifests. A renderer keeps
	// nothing from one call to the next, so several goroutines may use one.
	Render(ctx context.Context, files []manifest.File) (made []Manifest, left []manifest.File, errs manifest.Errors)
}

// Manifest is a text of objects. Its path is none that another manifest of the source has, and its hash that of the text.
type Manifest struct {
	manifest.File
	// Origin says where a line of the text comes from, counted from 1. Nil: the text is the source's file of that path.
	Origin func(line int) origin.Origin
}

// Plain takes every file for the manifest that it is.
type Plain struct{}

// Render implements Renderer.
func (Plain) Render(_ context.Context, files []manifest.File) (made []Manifest, left []manifest.File, errs manifest.Errors) {
	made = make([]Manifest, len(files))
	for i, f := range files {
		made[i].File = f
	}
	return made, nil, nil
}

// All are the renderers of every source, in the order in which they are offered its files. The last one leaves none.
func All() []Renderer { return []Renderer{Plain{}} }
