package health

import (
	"slices"

	"lockstep/kinds"
)

// Reads are the kinds that judgements look at besides their own objects.
type Reads map[*kinds.Kind][]kinds.Read

// AllReads are those of the rules of all kinds.
func AllReads() Reads {
	reads := Reads{}
	for _, k := range kinds.All {
		for _, r := range k.Health.Reads {
			kind := kinds.ForGVK(r.Of)
			reads[kind] = append(reads[kind], r)
		}
	}
	return reads
}

// Concern says whether a change of an object, whose states are nil where there are none, may change the judgement of
// others.
func (reads Reads) Concern(kind *kinds.Kind, old, new kinds.Object) bool {
	return slices.ContainsFunc(reads[kind], func(r kinds.Read) bool { return r.Wakes == nil || r.Wakes(old, new) })
}
