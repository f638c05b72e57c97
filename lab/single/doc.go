// Package single tests `lockstep up` on one machine that has nothing but loopback, from the first start to a reset.
package single
