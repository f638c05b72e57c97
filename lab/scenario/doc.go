// Package scenario pushes to a cluster in the lab and watches what becomes of each push.
package scenario
