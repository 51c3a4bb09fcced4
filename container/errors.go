package container

import "errors"

// The classes of errors. Packages wrap them with what was tried, on what and
// why; callers tell them apart with errors.Is. An error of no class is a fault of
// the host or of berth itself.
var (
	// ErrNotFound: what was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: what should be made exists already.
	ErrExists = errors.New("already exists")
	// ErrInvalid: the input (a request, an image, a record) is malformed or hostile.
	// The same input fails again.
	ErrInvalid = errors.New("invalid")
	// ErrFailedPrecondition: the state of the system forbids it now, for example
	// an image that a container uses cannot be removed.
	ErrFailedPrecondition = errors.New("failed precondition")
	// ErrNotSupported: this host, kernel or configuration cannot do it.
	ErrNotSupported = errors.New("not supported")
	// ErrUnavailable: a peer did not answer or failed; a retry may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied: credentials are missing or insufficient.
	ErrDenied = errors.New("access denied")
)

var classes = []error{ErrNotFound, ErrExists, ErrInvalid, ErrFailedPrecondition, ErrNotSupported, ErrUnavailable, ErrDenied}

// ClassOf returns the class of an error, as one of the values above; nil: it has none. Of one
// with several classes it is the first in the order above.
func ClassOf(err error) error {
	return firstClass(func(class error) bool { return errors.Is(err, class) })
}

// ClassNamed returns the class whose text this is; nil: there is none.
func ClassNamed(name string) error {
	return firstClass(func(class error) bool { return class.Error() == name })
}

func firstClass(fits func(error) bool) error {
	for _, class := range classes {
		if fits(class) {
			return class
		}
	}
	return nil
}
