package inroot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"berth/container"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image.
const maxAccounts = 4 << 20

// maxLine bounds a line of them. Longer ones are left out: no account needs as much, and
// what reads them takes a longer one for an error in the whole file.
const maxLine = 60 << 10

// maxUser bounds what names a user.
const maxUser = 512

// User is an account as a process needs it.
type User struct {
	UID, GID uint32
	Groups   []uint32
	// Home is "/" for a user without an account, or whose account has none.
	Home string
}

// LookupUser resolves USER[:GROUP], names or numbers, by the account files below root:
// numbers need no entry, names do. Empty is root. ErrNotFound for an unknown name,
// ErrInvalid for a number that is not an id.
func LookupUser(root, spec string) (User, error) {
	passwd, err := accounts(root, "etc/passwd")
	if err != nil {
		return User{}, fmt.Errorf("user %.80q: %w", spec, err)
	}
	group, err := accounts(root, "etc/group")
	if err != nil {
		return User{}, fmt.Errorf("user %.80q: %w", spec, err)
	}
	u, err := resolveUser(spec, passwd, group)
	if err != nil {
		return User{}, fmt.Errorf("user %.80q: %w; name another with --user: a number needs no account", spec, err)
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

// resolveUser is LookupUser on the content of the account files.
func resolveUser(spec string, passwd, group []byte) (User, error) {
	if err := checkUser(spec); err != nil {
		return User{}, err
	}
	found, err := user.GetExecUser(spec, nil, bytes.NewReader(wellFormed(passwd, 2, 3)), bytes.NewReader(wellFormed(group, 2)))
	switch {
	case errors.Is(err, user.ErrRange):
		return User{}, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	case err != nil:
		return User{}, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: cmp.Or(found.Home, "/")}
	for _, gid := range found.Sgids {
		u.Groups = append(u.Groups, uint32(gid))
	}
	return u, nil
}

// checkUser refuses what user.GetExecUser would take for a number: "-0" is not root.
func checkUser(spec string) error {
	name, group, _ := strings.Cut(spec, ":")
	switch {
	case len(spec) > maxUser:
		return fmt.Errorf("%w: it has %d bytes, at most %d are allowed", container.ErrInvalid, len(spec), maxUser)
	case strings.HasPrefix(name, "+"), strings.HasPrefix(name, "-"), strings.HasPrefix(group, "+"), strings.HasPrefix(group, "-"):
		return fmt.Errorf("%w: neither a name nor a number has a sign", container.ErrInvalid)
	}
	return nil
}

// wellFormed leaves out the lines whose ids are not numbers in range, as the C library
// does: user.GetExecUser would take "none" for 0, which is root, and so would the
// kernel take 4294967296 (CVE-2024-40635). ids are the fields that have ids. A line with
// a NUL has what no environment variable can have.
func wellFormed(data []byte, ids ...int) (kept []byte) {
	for line := range bytes.Lines(data) {
		if len(line) > maxLine || bytes.IndexByte(line, 0) >= 0 {
			continue
		}
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
