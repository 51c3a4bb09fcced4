package inroot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"

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
	passwd, err := accounts(root, "etc/passwd", 2, 3)
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	group, err := accounts(root, "etc/group", 2)
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

// accounts reads an account file; an image need not have one. ids are the fields that
// have ids.
func accounts(root, path string, ids ...int) ([]byte, error) {
	file, err := Open(root, path, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxAccounts))
	return wellFormed(data, ids), err
}

// wellFormed leaves out the lines whose ids are not numbers in range, as the C library
// does: user.GetExecUser would take "none" for 0, which is root, and so would the
// kernel take 4294967296 (CVE-2024-40635).
func wellFormed(data []byte, ids []int) (kept []byte) {
	for line := range bytes.Lines(data) {
		fields := bytes.SplitN(bytes.TrimSpace(line), []byte{':'}, 5)
		bad := slices.ContainsFunc(ids, func(i int) bool {
			if i >= len(fields) {
				return true
			}
			_, err := strconv.ParseUint(string(fields[i]), 10, 31)
			return err != nil
		})
		if !bad {
			kept = append(kept, line...)
		}
	}
	return kept
}
