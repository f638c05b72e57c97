package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"debug/gosym"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// largest is how many modules the size is told of.
const largest = 10

// size is that of the program as it is shipped, and which modules bring most of its code.
func size(_ context.Context, n *node) ([]Row, error) {
	info, err := os.Stat(n.lockstep)
	if err != nil {
		return nil, err
	}
	code, err := codeOf(n.lockstep)
	if err != nil {
		return nil, fmt.Errorf("cannot tell what is in %s: %w", n.lockstep, err)
	}
	const mib = 1 << 20
	rows := []Row{below("bin/lockstep", "MiB", float64(info.Size())/mib, 92)}
	modules := slices.SortedFunc(maps.Keys(code), func(a, b string) int {
		return cmp.Or(cmp.Compare(code[b], code[a]), cmp.Compare(a, b))
	})
	for _, m := range modules[:min(largest, len(modules))] {
		rows = append(rows, plain("bin/lockstep, functions of "+m, "MiB", float64(code[m])/mib))
	}
	return rows, nil
}

// codeOf is the size in bytes of the machine code in a program, by the module that its functions are of.
func codeOf(program string) (map[string]uint64, error) {
	build, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, lines := f.Section(".text"), f.Section(".gopclntab")
	if text == nil || lines == nil {
		return nil, errors.New("it is no program of Go")
	}
	data, err := lines.Data()
	if err != nil {
		return nil, err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return nil, err
	}
	modules := []string{build.Main.Path}
	for _, d := range build.Deps {
		modules = append(modules, d.Path)
	}
	sum := map[string]uint64{}
	for _, fn := range table.Funcs {
		sum[moduleOf(fn.PackageName(), modules)] += fn.End - fn.Entry
	}
	return sum, nil
}

// moduleOf is the module of a package: the one with the longest path, and Go itself if there is none.
func moduleOf(pkg string, modules []string) string {
	found := ""
	for _, m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(found) {
			found = m
		}
	}
	return cmp.Or(found, "Go")
}
