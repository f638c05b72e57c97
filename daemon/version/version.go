// Package version tells which build of Lockstep this is.
package version

// Version is set by the linker from git; a plain `go build` leaves it at this.
var Version = "v0.1.0-dev"
