// Package faults breaks a lab on purpose, from a seed, and checks what must survive and how soon it is repaired.
package faults
