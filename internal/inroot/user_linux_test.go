package inroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/container"
)

const passwd = `# a comment is no account
root:x:0:0:root:/root:/bin/sh
app:x:1000:100:an application:/home/app:/bin/sh
app:x:1001:101:the same name again:/other:/bin/sh
1234:x:4321:4321:a name of digits:/digits:
home:x:1002:1002
max:x:2147483647:2147483647::/:
over:x:2147483648:0::/:
wrap:x:4294967296:4294967296::/:
wrapgid:x:1003:4294967296::/:
negative:x:-1:-1::/:
none:x:none:none::/:
empty:x:::::
short
:x:7:7::/:
`

const group = `root:x:0:
wheel:x:10:root,app
extra:x:20:app
other:x:30:someone
group:x:100:
wrap:x:4294967296:app
none:x:none:app
`

func TestLookupUser(t *testing.T) {
	root, _ := newRoot(t)
	write(t, filepath.Join(root, "etc/passwd"), passwd)
	write(t, filepath.Join(root, "etc/group"), group)
	for _, c := range []struct {
		spec string
		want User
		err  error
	}{
		{spec: "", want: User{Groups: []uint32{10}, Home: "/root"}},
		{spec: "root", want: User{Groups: []uint32{10}, Home: "/root"}},
		{spec: "0", want: User{Groups: []uint32{10}, Home: "/root"}},
		{spec: "app", want: User{UID: 1000, GID: 100, Groups: []uint32{10, 20}, Home: "/home/app"}},
		{spec: "1000", want: User{UID: 1000, GID: 100, Groups: []uint32{10, 20}, Home: "/home/app"}},
		{spec: "app:other", want: User{UID: 1000, GID: 30, Home: "/home/app"}},
		{spec: "app:30", want: User{UID: 1000, GID: 30, Home: "/home/app"}},
		{spec: "app:77", want: User{UID: 1000, GID: 77, Home: "/home/app"}},
		{spec: "555", want: User{UID: 555}},
		{spec: "555:other", want: User{UID: 555, GID: 30}},
		{spec: "555:666", want: User{UID: 555, GID: 666}},
		{spec: ":30", want: User{GID: 30, Home: "/root"}},
		{spec: "1234", want: User{UID: 1234}}, // a number is a number
		{spec: "home", want: User{UID: 1002, GID: 1002}},
		{spec: "max", want: User{UID: 1<<31 - 1, GID: 1<<31 - 1, Home: "/"}},
		{spec: "2147483647", want: User{UID: 1<<31 - 1, GID: 1<<31 - 1, Home: "/"}},
		{spec: "7", want: User{UID: 7, GID: 7, Home: "/"}},
		// Numbers that are no ids must not become others, least of all 0 (CVE-2024-40635).
		{spec: "2147483648", err: container.ErrInvalid},
		{spec: "4294967295", err: container.ErrInvalid},
		{spec: "4294967296", err: container.ErrInvalid},
		{spec: "-1", err: container.ErrInvalid},
		{spec: "0:4294967296", err: container.ErrInvalid},
		{spec: "0:-1", err: container.ErrInvalid},
		{spec: "0x0", err: container.ErrNotFound},
		{spec: "12345678901234567890", err: container.ErrInvalid},
		{spec: "18446744073709551616", err: container.ErrInvalid},
		{spec: "0:0x0", err: container.ErrNotFound},
		{spec: " 0", err: container.ErrNotFound},
		{spec: "1e3", err: container.ErrNotFound},
		{spec: "nobody", err: container.ErrNotFound},
		{spec: "app:nobody", err: container.ErrNotFound},
		{spec: "# a comment is no account", err: container.ErrNotFound},
		{spec: "short", err: container.ErrNotFound},
		// Accounts whose ids are none.
		{spec: "over", err: container.ErrNotFound},
		{spec: "wrap", err: container.ErrNotFound},
		{spec: "wrapgid", err: container.ErrNotFound},
		{spec: "negative", err: container.ErrNotFound},
		{spec: "none", err: container.ErrNotFound},
		{spec: "empty", err: container.ErrNotFound},
		{spec: "app:wrap", err: container.ErrNotFound},
	} {
		t.Run(c.spec, func(t *testing.T) {
			got, err := LookupUser(root, c.spec)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %+v, %v, want the error %v", got, err, c.err)
			}
			if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("%q", c.spec)) {
				t.Errorf("error %v does not name the user", err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLookupUserWithoutAccountFiles(t *testing.T) {
	root, _ := newRoot(t)
	for spec, want := range map[string]User{"": {}, "0": {}, "7": {UID: 7}, "7:8": {UID: 7, GID: 8}} {
		if got, err := LookupUser(root, spec); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%q: got %+v, %v, want %+v", spec, got, err, want)
		}
	}
	if err := os.Remove(filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	if _, err := LookupUser(root, "7"); err != nil {
		t.Errorf("without /etc: %v", err)
	}
	for _, spec := range []string{"app", "0:wheel"} {
		if _, err := LookupUser(root, spec); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("%q: error %v, want one of class ErrNotFound", spec, err)
		}
	}
}

// CVE-2024-9676 and its like: what an image puts in the place of its account files.
func TestLookupUserInAHostileImage(t *testing.T) {
	for _, file := range []string{"etc/passwd", "etc/group"} {
		cases := map[string]struct {
			put func(t *testing.T, path, host string)
			err error // of looking up root
		}{
			"a link to a file of the host":    {func(t *testing.T, path, host string) { link(t, filepath.Join(host, "accounts"), path) }, nil},
			"a link that climbs":              {func(t *testing.T, path, _ string) { link(t, "../../host/accounts", path) }, nil},
			"a link to its place on the host": {func(t *testing.T, path, _ string) { link(t, path, path) }, nil},
			"a link to itself":                {func(t *testing.T, path, _ string) { link(t, filepath.Base(path), path) }, container.ErrInvalid},
			"below a file": {func(t *testing.T, path, _ string) {
				must(t, os.Remove(filepath.Dir(path)))
				write(t, filepath.Dir(path), "")
			}, container.ErrInvalid},
			"a directory": {func(t *testing.T, path, _ string) { must(t, os.Mkdir(path, 0o755)) }, container.ErrInvalid},
			"a FIFO":      {func(t *testing.T, path, _ string) { must(t, unix.Mkfifo(path, 0o644)) }, container.ErrInvalid},
			"a file of 1 GB": {func(t *testing.T, path, _ string) {
				write(t, path, "")
				must(t, os.Truncate(path, 1<<30))
			}, container.ErrInvalid},
			"a device": {func(t *testing.T, path, _ string) {
				if os.Geteuid() != 0 {
					t.Skip("making a device needs root")
				}
				must(t, unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
			}, container.ErrInvalid},
			"a line without an end":      {func(t *testing.T, path, _ string) { write(t, path, strings.Repeat("x", maxAccounts)) }, nil},
			"nothing but ends of lines":  {func(t *testing.T, path, _ string) { write(t, path, strings.Repeat("\n", maxAccounts)) }, nil},
			"nothing but colons and NUL": {func(t *testing.T, path, _ string) { write(t, path, strings.Repeat(":\x00", 1<<20)) }, nil},
		}
		for name, c := range cases {
			t.Run(file+" is "+name, func(t *testing.T) {
				root, host := newRoot(t)
				write(t, filepath.Join(host, "accounts"), "canary:x:77:77::/:\nroot:x:77:\n")
				c.put(t, filepath.Join(root, file), host)
				within(t, func() {
					if got, err := LookupUser(root, "0"); !errors.Is(err, c.err) {
						t.Errorf("root: got %+v, %v, want the error %v", got, err, c.err)
					} else if got.UID != 0 || got.GID != 0 || len(got.Groups) > 0 {
						t.Errorf("root is %+v", got)
					}
					if got, err := LookupUser(root, "canary"); err == nil {
						t.Errorf("the user %+v is of the host", got)
					}
				})
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkLookupUser(b *testing.B) {
	root := b.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644), os.WriteFile(filepath.Join(root, "etc/group"), []byte(group), 0o644)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := LookupUser(root, "app"); err != nil {
			b.Fatal(err)
		}
	}
}
