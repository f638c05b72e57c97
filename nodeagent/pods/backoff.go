package pods

import "time"

const (
	// Kubernetes' restart backoff: 10 s, doubling, at most 5 min.
	// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
	firstDelay = 10 * time.Second
	lastDelay  = 5 * time.Minute
	// forgiven is how long an instance must run for its crashes to be forgotten.
	forgiven = 10 * time.Minute
	// retryDelay is the first pause before sandbox and volumes are tried
	// again: short, since most causes (a missing ConfigMap, a network that is
	// not configured yet) end by themselves.
	retryDelay = 500 * time.Millisecond
	// retryLast bounds that pause: one minute, as Kubernetes' ConfigMap refresh.
	retryLast = time.Minute
)

// double returns first doubled n-1 times, at most last; zero for n < 1.
func double(first, last time.Duration, n int) time.Duration {
	if n < 1 {
		return 0
	}
	d := first
	for range n - 1 {
		if d *= 2; d >= last {
			return last
		}
	}
	return d
}

// restartDelay is how long after an exit the next instance may start.
func restartDelay(c Container) time.Duration {
	if crashes(c) <= 1 {
		return 0
	}
	return double(firstDelay, lastDelay, crashes(c)-1)
}

// crashes is the number of crashes in a row that the instance after c has behind it.
func crashes(c Container) int {
	if c.FinishedAt.Sub(c.StartedAt) >= forgiven && !c.StartedAt.IsZero() {
		return 1
	}
	return c.Crashes + 1
}

// Retry is when a step that failed so may be tried again.
func (f Failure) Retry(k Kind) time.Time {
	if !f.Until.IsZero() {
		return f.Until
	}
	switch k {
	case Prepare, Start:
		return f.At.Add(double(firstDelay, lastDelay, f.Count))
	}
	return f.At.Add(double(retryDelay, retryLast, f.Count))
}
