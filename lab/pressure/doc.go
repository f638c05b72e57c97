// Package pressure runs a node short of memory and disk.
package pressure
