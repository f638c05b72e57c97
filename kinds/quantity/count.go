package quantity

import "k8s.io/apimachinery/pkg/api/resource"

// Most is the largest number that a quantity counts as, where it is added to others: more than any machine has, and a thousand of them
// fit into an int64.
const Most = 1 << 53

// Value is a quantity rounded away from zero, between -Most and Most: of what does not fit into an int64 the library's own returns
// anything, nothing and less than nothing among it.
func Value(q *resource.Quantity) int64 {
	if most, over := beyond(q, Most); over {
		return most
	}
	return q.Value()
}

// Milli is a quantity in thousandths, rounded likewise, between -Most and Most.
func Milli(q *resource.Quantity) int64 {
	if most, over := beyond(q, Most/1000); over {
		return most
	}
	return q.MilliValue()
}

func beyond(q *resource.Quantity, most int64) (int64, bool) {
	switch {
	case q.CmpInt64(most) > 0:
		return Most, true
	case q.CmpInt64(-most) < 0:
		return -Most, true
	}
	return 0, false
}
