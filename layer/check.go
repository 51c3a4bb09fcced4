package layer

import (
	"errors"
	"fmt"
	"syscall"
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
type problems struct {
	list []Problem
	// unable is what kept the check from finding out.
	unable error
}

// add adds a problem. An error among args may be what keeps the check from finding out.
func (ps *problems) add(path, format string, args ...any) {
	for _, arg := range args {
		if err, ok := arg.(error); ok {
			ps.note(err)
		}
	}
	if len(ps.list) < maxProblems {
		ps.list = append(ps.list, Problem{path, fmt.Sprintf(format, args...)})
	}
}

// note looks whether an error says something about this process, or the machine, rather
// than about the layer.
func (ps *problems) note(err error) error {
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if ps.unable == nil && errors.Is(err, lack) {
			ps.unable = err
		}
	}
	return err
}
