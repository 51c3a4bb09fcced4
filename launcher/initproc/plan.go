package initproc

import (
	"errors"
	"os"

	"berth/launcher/plan"
)

// planFile returns the encoded plan as a file without a name, at its beginning.
func planFile(p plan.Plan) (*os.File, error) {
	f, err := unnamed()
	if err != nil {
		return nil, err
	}
	if err := p.Encode(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
