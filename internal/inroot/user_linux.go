package inroot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/moby/sys/user"

	"berth/container"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image.
const maxAccounts = 4 << 20

// User is an account as a process needs it.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// LookupUser resolves USER[:GROUP], names or numbers, by the account files below root:
// numbers need no entry, names do. Empty is root. ErrNotFound for an unknown name,
// ErrInvalid for a number that is not an id.
func LookupUser(root, spec string) (User, error) {
	passwd, err := accounts(root, "etc/passwd")
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	group, err := accounts(root, "etc/group")
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	found, err := user.GetExecUser(spec, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	switch {
	case errors.Is(err, user.ErrRange):
		return User{}, fmt.Errorf("user %q: %w: %w", spec, container.ErrInvalid, err)
	case err != nil:
		return User{}, fmt.Errorf("user %q: %w in the image: %w", spec, container.ErrNotFound, err)
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: found.Home}
	for _, gid := range found.Sgids {
		u.Groups = append(u.Groups, uint32(gid))
	}
	return u, nil
}

// accounts reads an account file; an image need not have one.
func accounts(root, path string) ([]byte, error) {
	file, err := Open(root, path, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxAccounts))
}
