package sync

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"lockstep/internal/whole"
)

// configuredFile has, in the data folder, the names of the sources that this process was configured with when it began to lead last.
const configuredFile = "sources.json"

// dropped are the sources that this process was configured with before and is no more.
func (s *Sync) dropped() []string {
	if s.opts.DataDir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(s.opts.DataDir, configuredFile))
	var before []string
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Warn("cannot read which sources this server was configured with before: none is let go", "error", err)
	}
	return slices.DeleteFunc(before, func(name string) bool { return slices.Contains(s.configured(), name) })
}

// noteConfigured keeps what dropped compares with.
func (s *Sync) noteConfigured() {
	if s.opts.DataDir == "" {
		return
	}
	data, err := json.Marshal(s.configured())
	if err == nil {
		err = os.MkdirAll(s.opts.DataDir, 0o700)
	}
	if err == nil {
		err = whole.Write(filepath.Join(s.opts.DataDir, configuredFile), data)
	}
	if err != nil {
		s.opts.Log.Warn("cannot note which sources this server is configured with", "error", err)
	}
}

// configured are the names of the sources that this process was started with.
func (s *Sync) configured() []string {
	names := []string{}
	for _, src := range s.opts.Sources {
		names = append(names, src.Name)
	}
	return names
}
