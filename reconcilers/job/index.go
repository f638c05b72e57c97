package job

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// interval has the indexes from first to last, both among them.
type interval struct{ first, last int }

// intervals are sorted, and apart from each other by at least one index. In text they are "1,3-5,7", two in a row "1,2".
type intervals []interval

// parse reads intervals below a bound. What is no interval is left out.
func parse(text string, bound int) (out intervals) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first >= bound {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		out = append(out, interval{first, min(last, bound-1)})
	}
	return out.merged()
}

func (in intervals) merged() (out intervals) {
	slices.SortFunc(in, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	for _, i := range in {
		if n := len(out); n > 0 && i.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, i.last)
			continue
		}
		out = append(out, i)
	}
	return out
}

// with adds indexes.
func (in intervals) with(indexes []int) intervals {
	out := slices.Clone(in)
	for _, i := range indexes {
		out = append(out, interval{i, i})
	}
	return out.merged()
}

func (in intervals) total() (n int) {
	for _, i := range in {
		n += i.last - i.first + 1
	}
	return n
}

func (in intervals) has(index int) bool {
	_, found := slices.BinarySearchFunc(in, index, func(i interval, index int) int {
		switch {
		case index < i.first:
			return 1
		case index > i.last:
			return -1
		}
		return 0
	})
	return found
}

func (in intervals) String() string {
	var parts []string
	for _, i := range in {
		switch i.last - i.first {
		case 0:
			parts = append(parts, strconv.Itoa(i.first))
		case 1:
			parts = append(parts, strconv.Itoa(i.first), strconv.Itoa(i.last))
		default:
			parts = append(parts, strconv.Itoa(i.first)+"-"+strconv.Itoa(i.last))
		}
	}
	return strings.Join(parts, ",")
}

func completions(j *batchv1.Job) int {
	if j.Spec.Completions == nil {
		return 0
	}
	return int(*j.Spec.Completions)
}

// indexOf returns the completion index of a pod; not ok: it has none that the job could count. Pods of a job that is not
// indexed all have index 0.
func indexOf(j *batchv1.Job, p *corev1.Pod) (index int, ok bool) {
	if !indexed(j) {
		return 0, true
	}
	index, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	return index, err == nil && index >= 0 && index < completions(j)
}

// pending returns the first n indexes that have neither ended nor an active pod.
func (t *turn) pending(n int) (out []int) {
	taken := map[int]bool{}
	mark := func(list []*corev1.Pod) {
		for _, p := range list {
			if index, ok := indexOf(t.job, p); ok {
				taken[index] = true
			}
		}
	}
	mark(t.active)
	if onlyFailed(t.job) {
		mark(t.claims.Terminating)
	}
	for index := 0; index < completions(t.job) && len(out) < n; index++ {
		if !taken[index] && !t.tally.done.has(index) && !t.tally.lost.has(index) {
			out = append(out, index)
		}
	}
	return out
}

// misplaced are the active pods without an index that counts, and of several of one index all but the one that is furthest.
func misplaced(j *batchv1.Job, active []*corev1.Pod) (out, left []*corev1.Pod) {
	first := map[int]bool{}
	sorted := order(active)
	slices.Reverse(sorted)
	for _, p := range sorted {
		index, ok := indexOf(j, p)
		if !ok || first[index] {
			out = append(out, p)
			continue
		}
		first[index] = true
		left = append(left, p)
	}
	return out, left
}

// failuresOf is how often a pod's index had failed before it, ignoredOf how many more failures were not counted.
func failuresOf(p *corev1.Pod) int32 { return number(p, batchv1.JobIndexFailureCountAnnotation) }

func ignoredOf(p *corev1.Pod) int32 { return number(p, batchv1.JobIndexIgnoredFailureCountAnnotation) }

func countsOf(p *corev1.Pod) int32 { return failuresOf(p) + ignoredOf(p) }

func number(p *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(p.Annotations[annotation], 10, 32)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}
