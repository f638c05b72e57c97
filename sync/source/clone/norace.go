//go:build !race

package clone

const unconfined = false
