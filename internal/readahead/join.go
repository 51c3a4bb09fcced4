package readahead

// Pieces is a stream that comes in pieces.
type Pieces interface {
	// Next returns the next piece, which is good until the next call and not empty, or why
	// there is none: io.EOF at the end.
	Next() ([]byte, error)
}

// Joined reads pieces one after the other. It is not safe for concurrent use.
type Joined struct {
	pieces Pieces
	rest   []byte // of the present one
}

// Join returns the stream of the pieces, which must not be used otherwise meanwhile.
func Join(p Pieces) *Joined { return &Joined{pieces: p} }

// Read implements io.Reader. An error is that of the pieces.
func (j *Joined) Read(p []byte) (n int, err error) {
	if err := j.have(); err != nil {
		return 0, err
	}
	n = copy(p, j.rest)
	j.rest = j.rest[n:]
	return n, nil
}

// Skip goes over n bytes that nobody wants to see, and returns how many there were before an
// error of the pieces.
func (j *Joined) Skip(n int64) (skipped int64, err error) {
	for skipped < n {
		if err := j.have(); err != nil {
			return skipped, err
		}
		now := min(n-skipped, int64(len(j.rest)))
		j.rest = j.rest[now:]
		skipped += now
	}
	return skipped, nil
}

// have takes the next piece when all of this one is read.
func (j *Joined) have() (err error) {
	if len(j.rest) == 0 {
		j.rest, err = j.pieces.Next()
	}
	return err
}
