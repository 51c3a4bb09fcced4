package layer

import (
	"fmt"
)

// Problem is a difference between a layer on disk and the tar that it was made of.
type Problem struct {
	Path string `json:"path,omitempty"` // below the root of the layer; empty: the layer as a whole
	What string `json:"what"`
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.What
	}
	return quote(p.Path) + ": " + p.What
}

// maxProblems bounds what is told of one layer.
const maxProblems = 20

// problems collects what is wrong with one layer.
type problems []Problem

func (ps *problems) add(path, format string, args ...any) {
	if len(*ps) < maxProblems {
		*ps = append(*ps, Problem{path, fmt.Sprintf(format, args...)})
	}
}
