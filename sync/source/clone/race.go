//go:build race

package clone

// Confined says that the memory of a process that reads a repository is bounded: not under the race detector, whose
// shadow of the memory would count, several times the memory itself.
const Confined = false
