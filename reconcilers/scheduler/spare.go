package scheduler

// spare is what classes leave to those after them: each needs some hundred kilobytes for a while, and a round may have thousands.
type spare struct {
	found  [][]found // all zero
	ranked []candidates

	more    candidates // room for the nodes that a class looks at together
	numbers []int64    // and for a number of each
}

// takeFound returns as many as there are nodes, all zero.
func (s *spare) takeFound(nodes int) []found {
	last := len(s.found) - 1
	if last < 0 {
		return make([]found, nodes)
	}
	out := s.found[last]
	s.found = s.found[:last]
	return out
}

// takeRanked returns an empty list.
func (s *spare) takeRanked() candidates {
	last := len(s.ranked) - 1
	if last < 0 {
		return nil
	}
	out := s.ranked[last]
	s.ranked = s.ranked[:last]
	return out
}

// give takes what a class has no use for any more.
func (s *spare) give(c *class) {
	if c.found != nil {
		clear(c.found)
		s.found = append(s.found, c.found)
	}
	for i := range c.buckets {
		s.ranked = append(s.ranked, c.buckets[i].ranked[:0])
	}
}
