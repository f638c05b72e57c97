// Package spread does the same for many things on all processors.
package spread

import (
	"runtime"
	"sync"
)

// Over calls f with each number from 0 to n-1, and returns when all have returned. It begins another goroutine, up to one a
// processor, only for as many numbers each as are worth it. f is called by several goroutines, by each in rising order.
func Over(n, worth int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n/worth+1)
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() {
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				f(i)
			}
		})
	}
	for i := range n / workers {
		f(i)
	}
	wg.Wait()
}
