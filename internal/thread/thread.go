// Package thread runs functions that change the thread they run on.
package thread

import "runtime"

// Own calls f on a thread of its own and returns what f does. The thread is never unlocked, so it ends with f instead of
// being used again by others: what f has made of it, a namespace above all, ends with it.
func Own(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
