//go:build race

package clone

// unconfined: the race detector's shadow of the memory would count, several times the memory itself.
const unconfined = true
