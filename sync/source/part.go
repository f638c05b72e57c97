package source

import "time"

// partOf is the part of a processor that reading a repository may use in the long run: a fourth, so that a push every few
// minutes that is as much work as may be leaves the most of one to everybody else.
const partOf = 4

// part is what is left to a repository of processors: at most one look's worth, which grows by a part of the time that
// passes. It may be overdrawn by one look, and is waited for then.
type part struct {
	most, left time.Duration
	used       time.Duration // what has been taken from left
	at         time.Time
}

func newPart(most time.Duration, now time.Time) part { return part{most: most, left: most, at: now} }

// wait takes in what has been used so far, and returns how long it is until something is left; zero or less: now.
func (p *part) wait(used time.Duration, now time.Time) time.Duration {
	if passed := now.Sub(p.at); passed > 0 {
		p.left, p.at = min(p.most, p.left+passed/partOf), now
	}
	p.left -= used - p.used
	p.used = used
	return -p.left * partOf
}
