// Package short says what tests leave out under -short, which is how the inner loop runs them.
package short

import "testing"

// Of is how many of all seeds, or of whatever a test has many of, it tries: all, or under -short a tenth and at least two.
// That sees a change which breaks everything; what breaks one in a hundred is the whole suite's to find.
func Of(all uint64) uint64 {
	if testing.Short() {
		return min(all, max(2, all/10))
	}
	return all
}

// Leave skips a test under -short that cannot be made smaller: it goes to a bound to see that it holds. What it goes
// through, as in "half a gigabyte", is the reason.
func Leave(t testing.TB, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED under -short: " + why)
	}
}
