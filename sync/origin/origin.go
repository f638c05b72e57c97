// Package origin says where an object comes from.
package origin

import "strconv"

// Origin is the place that states an object. The zero value: not known.
type Origin struct {
	// File is slash-separated and relative to the root of the source; Line counts from 1.
	File string `json:"file"`
	Line int    `json:"line"`
}

// Place writes "cart.yaml:14".
func (o Origin) Place() string { return o.File + ":" + strconv.Itoa(o.Line) }
