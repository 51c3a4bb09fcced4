package inroot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/container"
)

const passwd = "nul:x:8:8::/home\x00:\n" + `# a comment is no account
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
		{spec: "555", want: User{UID: 555, Home: "/"}},
		{spec: "555:other", want: User{UID: 555, GID: 30, Home: "/"}},
		{spec: "555:666", want: User{UID: 555, GID: 666, Home: "/"}},
		{spec: ":30", want: User{GID: 30, Home: "/root"}},
		{spec: "1234", want: User{UID: 1234, Home: "/"}}, // a number is a number
		{spec: "home", want: User{UID: 1002, GID: 1002, Home: "/"}},
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
		{spec: "-0", err: container.ErrInvalid},
		{spec: "+0", err: container.ErrInvalid},
		{spec: "0:+0", err: container.ErrInvalid},
		{spec: "-app", err: container.ErrInvalid},
		{spec: strings.Repeat("a", 513), err: container.ErrInvalid},
		{spec: "app:extra:more", err: container.ErrNotFound},
		{spec: "app\n", err: container.ErrNotFound},
		{spec: "../../etc/passwd", err: container.ErrNotFound},
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
		{spec: "nul", err: container.ErrNotFound},
		{spec: "app:wrap", err: container.ErrNotFound},
	} {
		t.Run(c.spec, func(t *testing.T) {
			got, err := LookupUser(root, c.spec)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %+v, %v, want the error %v", got, err, c.err)
			}
			if err != nil && (!strings.Contains(err.Error(), fmt.Sprintf("%.80q", c.spec)) || !strings.Contains(err.Error(), "--user")) {
				t.Errorf("error %v does not name the user and the remedy", err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLookupUserWithoutAccountFiles(t *testing.T) {
	root, _ := newRoot(t)
	for spec, want := range map[string]User{"": {Home: "/"}, "0": {Home: "/"}, "7": {UID: 7, Home: "/"}, "7:8": {UID: 7, GID: 8, Home: "/"}} {
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

// A line that is longer than a reader takes must not hide the others.
func TestLookupUserBesideVeryLongLines(t *testing.T) {
	root, _ := newRoot(t)
	long := strings.Repeat("x", 1<<20)
	write(t, filepath.Join(root, "etc/passwd"), "long:x:9:9:"+long+":/:\napp:x:1000:100::/home/app:\n")
	write(t, filepath.Join(root, "etc/group"), "long:x:9:app,"+long+"\nextra:x:20:app\n")
	got, err := LookupUser(root, "app")
	if diff := cmp.Diff(User{UID: 1000, GID: 100, Groups: []uint32{20}, Home: "/home/app"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if got, err := LookupUser(root, "long"); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Whatever an image has for account files and for a user: no number becomes another, and
// no name becomes an id that the files do not give it.
func FuzzResolveUser(f *testing.F) {
	for _, spec := range []string{"", "app", "app:wheel", "1000", "0:0", ":30", "12345678901234567890", "-0", "+1", "4294967296", "a:b:c", "\x00"} {
		f.Add(spec, []byte(passwd), []byte(group))
	}
	f.Add("app", []byte("app:x:4294967296:0::/:"), []byte("wheel:x:-1:app"))
	f.Add("app", []byte("app:x:1:2:\napp"), []byte(":::app,,app"))
	f.Add("none", []byte("none:x:none:none"), []byte("none:x: 0:none"))
	f.Add("x", []byte(strings.Repeat("x", 70_000)+"\nx:x:1:1\n"), []byte("\n\n:\x00:\r\n"))
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		got, err := resolveUser(spec, passwd, group)
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotFound) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		if got.Home == "" || strings.ContainsAny(got.Home, "\x00\n") {
			t.Errorf("the home %q", got.Home)
		}
		name, _, _ := strings.Cut(spec, ":")
		if id, err := strconv.ParseUint(name, 10, 64); err == nil && uint64(got.UID) != id {
			t.Errorf("the number %s is %+v", name, got)
		}
		for _, id := range append([]uint32{got.UID, got.GID}, got.Groups...) {
			// The only ids without a source are those of root, when nothing is asked for, and the
			// group of a user without an account.
			if id != 0 && !bytes.Contains(slices.Concat([]byte(spec), passwd, group), []byte(strconv.Itoa(int(id)))) {
				t.Errorf("%q is %+v, of which nothing has %d", spec, got, id)
			}
		}
	})
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
