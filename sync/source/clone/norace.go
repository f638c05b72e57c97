//go:build !race

package clone

// Confined says that the memory of a process that reads a repository is bounded: not under the race detector.
const Confined = true
