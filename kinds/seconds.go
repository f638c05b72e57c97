package kinds

import "time"

// MostSeconds is a century: longer overflows a duration sooner or later, and is as good as for ever.
const MostSeconds = 100 * 365 * 24 * 3600

// Seconds is a time that an object states, at most MostSeconds.
func Seconds(n int64) time.Duration { return time.Duration(min(n, MostSeconds)) * time.Second }
