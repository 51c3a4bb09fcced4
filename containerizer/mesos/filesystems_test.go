//go:build linux

package mesos

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/isolator"
	filesystem "berth/isolator/filesystem/linux"
	"berth/isolator/filesystem/posix"
	"berth/isolator/filesystem/shared"
	"berth/isolator/volume/hostpath"
)

// newRigOn returns a rig with another file system than that of filesystem/linux, and the
// isolators that the test wants beside it.
func newRigOn(t *testing.T, fileSystem isolator.Isolator, with func(isolator.Isolator) bool) *rig {
	t.Helper()
	return newRigWith(t, "overlay", func(p *parts) {
		p.isolators = slices.DeleteFunc(p.isolators, func(i isolator.Isolator) bool {
			_, isLinux := i.(*filesystem.Isolator)
			return isLinux || !with(i)
		})
		p.isolators = append([]isolator.Isolator{fileSystem}, p.isolators...)
	})
}

func everyone(isolator.Isolator) bool { return true }
func nobody(isolator.Isolator) bool   { return false }

// bb is a script for the host's file system, which need not have the commands: each word
// "bb" is a busybox.
func bb(script string) *v1.ContainerConfig {
	return onHost("bb() { " + busybox + " \"$@\"; }; " + script)
}

func (r *rig) mkdir(name string, mode fs.FileMode) string {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil {
		r.Fatal(err)
	}
	return path
}

// writeFile makes a file; path is absolute.
func (r *rig) writeFile(path, content string) {
	r.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.Fatal(err)
	}
}

func TestThePosixFileSystemIsTheHosts(t *testing.T) {
	r := newRigOn(t, posix.New(), nobody)
	host := r.mkdir("host", 0o755)
	r.expectOf(bb("[ $(pwd) = $MESOS_SANDBOX ] && bb touch mine && bb ls; bb readlink /proc/self/ns/mnt; echo x >"+host+"/x"),
		"mine\n"+mountNamespace(t))
	if data, err := os.ReadFile(host + "/x"); err != nil || string(data) != "x\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	for name, c := range map[string]*v1.ContainerConfig{
		"an image": shell("true"), "a volume": mounting(bb("true"), hostVolume(host, host, "ro")),
	} {
		if o := r.run(c); !errors.Is(o.err, container.ErrNotSupported) || !strings.Contains(o.err.Error(), "filesystem/linux") {
			t.Errorf("%s: %v", name, o.err)
		}
		r.assertNothingLeft()
	}
	// An isolator that mounts something brings a namespace.
	r = newRigOn(t, posix.New(), everyone)
	if got := r.output(bb("bb readlink /proc/self/ns/mnt; echo $$")); strings.Contains(got, mountNamespace(t)) {
		t.Errorf("its /proc is mounted on the host's: %q", got)
	}
}

func mountNamespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// The example of the documentation of filesystem/shared, on a directory that is like /tmp.
func TestPrivateDirectoriesOfTheSharedFileSystem(t *testing.T) {
	for name, with := range map[string]func(isolator.Isolator) bool{"with all other isolators": everyone, "with volume/host_path alone": isHostPath} {
		t.Run(name, func(t *testing.T) {
			r := newRigOn(t, shared.New(), with)
			if err := errors.Join(os.Chmod(testDir, 0o711), os.Chmod(r.dir, 0o711)); err != nil { // for the user
				t.Fatal(err)
			}
			public, owned, plain := r.mkdir("public", 0o777|fs.ModeSticky), r.mkdir("owned", 0o710), r.mkdir("plain", 0o755)
			if err := os.Chown(owned, 1000, 100); err != nil {
				t.Fatal(err)
			}
			r.writeFile(public+"/of-the-host", "")
			private := func(script string) *v1.ContainerConfig {
				return mounting(bb(script), hostVolume("tmp", public, "rw"))
			}
			r.expectOf(private("bb ls "+public+"; bb stat -c %a:%u "+public+" tmp; : >"+public+"/x; bb ls tmp"), "1777:0\n1777:0\nx")
			// Two at a time.
			a, b := r.start(private("echo a >"+public+"/x; echo ready; read go; bb cat "+public+"/*")), r.start(private("echo b >"+public+"/x; echo ready; read go; bb cat "+public+"/*"))
			for c, want := range map[*box]string{a: "ready\na\n", b: "ready\nb\n"} {
				c.says("ready")
				c.stdin.Write([]byte("go\n"))
				if o := c.wait(); o.stdout != want {
					t.Errorf("prints %q, want %q", o.stdout, want)
				}
			}
			if entries, err := os.ReadDir(public); err != nil || len(entries) != 1 {
				t.Errorf("on the host: %v, %v", entries, err)
			}
			// As another user, whose sandbox it is; with another owner; absolute paths, both ways.
			request := private(": >" + public + "/x && bb stat -c %u tmp/x")
			request.User = proto.String("1000")
			r.expectOf(request, "1000")
			r.expectOf(mounting(bb("bb stat -c %a:%u:%g "+owned), hostVolume("a/b", owned, "ro")), "710:1000:100")
			r.expectOf(mounting(bb("bb ls "+plain+" 2>&1; bb touch "+plain+"/x 2>&1 | bb grep -c Read-only"), hostVolume(public, plain, "ro")), "of-the-host\n1")
			r.expectOf(mounting(bb("bb touch "+plain+"/written; bb ls "+plain), hostVolume(public, plain, "rw")), "of-the-host\nwritten")
		})
	}
}

func isHostPath(i isolator.Isolator) bool {
	_, ok := i.(*hostpath.Isolator)
	return ok
}

func TestWhatTheSharedFileSystemRefuses(t *testing.T) {
	r := newRigOn(t, shared.New(), everyone)
	missing := filepath.Join(r.dir, "missing")
	for name, test := range map[string]struct {
		config *v1.ContainerConfig
		words  string
	}{
		"an image":                {shell("true"), "filesystem/linux"},
		"nothing to copy from":    {mounting(bb("true"), hostVolume("tmp", missing, "rw")), missing},
		"a file to copy from":     {mounting(bb("true"), hostVolume("tmp", r.canary, "rw")), "no directory"},
		"a place in the sandbox":  {mounting(bb("true"), hostVolume("tmp", "tmp", "rw")), "container_path is absolute"},
		"a missing place":         {mounting(bb("true"), hostVolume("/etc", missing, "ro")), "must exist"},
		"a missing path":          {mounting(bb("true"), hostVolume(missing, "/mnt", "ro")), missing},
		"a directory on a file":   {mounting(bb("true"), hostVolume("/etc", r.canary, "ro")), "directory"},
		"a directory that climbs": {mounting(bb("true"), hostVolume("../tmp", "/tmp", "rw")), `".."`},
	} {
		if o := r.run(test.config); o.err == nil || !strings.Contains(o.err.Error(), test.words) {
			t.Errorf("%s: %d, %v; want it to say %q", name, o.code(), o.err, test.words)
		}
		r.assertNothingLeft()
	}
	if _, err := os.Lstat(missing); err == nil {
		t.Error("it was made on the host")
	}
}

func secretVolume(s *v1.Secret, at, mode string) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: modes[mode].Enum(), Source: &v1.Volume_Source{Type: v1.Volume_Source_SECRET.Enum(), Secret: s}}
}

func TestSecrets(t *testing.T) {
	const word = "Thei4Eishae7"
	r := newRig(t)
	hidden := &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte(word)}}
	empty := &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte{}}}
	request := mounting(shell("stat -c %a:%u /etc/secret; cat /etc/secret box; stat -c %s /empty; "+
		"{ echo x >/etc/secret; } 2>&1 | grep -c -e denied -e Read; echo new >box && cat box; grep /etc/secret /proc/self/mountinfo | grep -c nosuid,nodev,noexec; echo; read go"),
		secretVolume(hidden, "/etc/secret", "ro"), secretVolume(hidden, "box", "rw"), secretVolume(empty, "/empty", "ro"))
	request.User = proto.String("app")
	c := r.start(request)
	c.says("\n\n")
	if out, _ := c.output(); !strings.HasPrefix(out, "400:1000\n"+word+word+"0\n") || !strings.HasSuffix(out, "\n1\nnew\n1\n\n") {
		t.Errorf("prints %q", out)
	}
	// It is nowhere below the directories of berth, while the container runs.
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, form := range []string{word, base64.StdEncoding.EncodeToString([]byte(word))} {
			if err == nil && strings.Contains(string(data), form) {
				t.Errorf("%s has the secret", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	c.stdin.Write([]byte("\n"))
	if o := c.wait(); o.code() != 0 {
		t.Errorf("%+v", o)
	}
	// Another user cannot read it. Without an image it is in the sandbox.
	request = mounting(shell("su app -s /bin/sh -c 'cat /s' 2>&1 | grep -c denied"), secretVolume(hidden, "/s", "ro"))
	r.expectOf(request, "1")
	r.expectOf(mounting(bb("bb cat s"), secretVolume(hidden, "s", "ro")), word)
}

func sandboxVolume(path, at, mode string) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: modes[mode].Enum(), Source: &v1.Volume_Source{Type: v1.Volume_Source_SANDBOX_PATH.Enum(),
		SandboxPath: &v1.Volume_Source_SandboxPath{Type: v1.Volume_Source_SandboxPath_SELF.Enum(), Path: &path}}}
}

func TestVolumesOfTheOwnSandbox(t *testing.T) {
	r := newRig(t)
	request := mounting(shell("echo x >/var/data/f; cat $MESOS_SANDBOX/d/f; stat -c %u /var/data; touch /ro/f 2>&1 | grep -c Read-only"),
		sandboxVolume("d", "/var/data", "rw"), sandboxVolume("d", "/ro", "ro"))
	request.User = proto.String("app")
	r.expectOf(request, "x\n1000\n1")
}

func persistent(c *v1.ContainerConfig, id, at, mode string, shared bool) *v1.ContainerConfig {
	r := &v1.Resource{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(64)},
		Reservations: []*v1.Resource_ReservationInfo{{Role: proto.String("ops/db")}},
		Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: &id},
			Volume: &v1.Volume{ContainerPath: &at, Mode: modes[mode].Enum()}}}
	if shared {
		r.Shared = &v1.Resource_SharedInfo{}
	}
	c.Resources = append(c.Resources, r)
	return c
}

func TestPersistentVolumesStay(t *testing.T) {
	r := newRig(t)
	as := func(user string, c *v1.ContainerConfig) *v1.ContainerConfig {
		c.User = &user
		return c
	}
	r.expectOf(as("app", persistent(shell("echo 1 >data/f; stat -c %u data; cat $MESOS_SANDBOX/data/f"), "own", "data", "rw", false)), "1000\n1")
	r.expectOf(as("0", persistent(shell("cat /srv/f; stat -c %u /srv; touch /srv/x 2>&1 | grep -c Read-only"), "own", "/srv", "ro", false)), "1\n0\n1")
	// Without an image, and with another volume in it.
	r.expectOf(mounting(persistent(bb("bb cat data/f; bb ls data"), "own", "data", "rw", false), hostVolume("/etc/passwd", "data/passwd", "ro")), "1\nf\npasswd")
	dir := filepath.Join(r.Layout.Work, "volumes/roles/ops db")
	if data, err := os.ReadFile(dir + "/own/f"); err != nil || string(data) != "1\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	// A shared one, by two at a time.
	a := r.start(as("app", persistent(shell("echo ready; read go; cat data/f"), "common", "data", "ro", true)))
	a.says("ready")
	r.expectOf(as("0", persistent(shell("echo 2 >/v/f; stat -c %u /v"), "common", "/v", "rw", true)), "1000")
	a.stdin.Write([]byte("\n"))
	if o := a.wait(); o.stdout != "ready\n2\n" {
		t.Errorf("the other one sees %q", o.stdout)
	}
	if o := r.run(persistent(persistent(shell("true"), "a", "data", "rw", false), "b", "data", "rw", false)); !errors.Is(o.err, container.ErrInvalid) {
		t.Errorf("two in one place: %v", o.err)
	}
}

func propagating(path, at string, mode v1.MountPropagation_Mode) *v1.Volume {
	return &v1.Volume{ContainerPath: &at, Mode: v1.Volume_RW.Enum(), Source: &v1.Volume_Source{Type: v1.Volume_Source_HOST_PATH.Enum(),
		HostPath: &v1.Volume_Source_HostPath{Path: &path, MountPropagation: &v1.MountPropagation{Mode: mode.Enum()}}}}
}

func TestMountPropagation(t *testing.T) {
	r := newRig(t)
	host := r.mkdir("host", 0o755)
	for _, mount := range []func() error{
		func() error { return unix.Mount("host", host, "tmpfs", 0, "") },
		func() error { return unix.Mount("", host, "", unix.MS_SHARED, "") },
		func() error { return os.Mkdir(host+"/late", 0o755) },
		func() error { return os.Mkdir(host+"/back", 0o755) },
	} {
		if err := mount(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { unix.Unmount(host+"/late", unix.MNT_DETACH); unix.Unmount(host, unix.MNT_DETACH) })
	script := func(at string) string {
		return "mount -t tmpfs back " + at + "/back && touch " + at + "/back/of-container; echo ready; read go; ls " + at + "/late"
	}
	for name, test := range map[string]struct {
		config *v1.ContainerConfig
		back   bool
	}{
		"a host_path":                {mounting(shell(script("/v")), hostVolume(host, "/v", "rw")), false},
		"HOST_TO_CONTAINER":          {mounting(shell(script("/v")), propagating(host, "/v", v1.MountPropagation_HOST_TO_CONTAINER)), false},
		"BIDIRECTIONAL":              {mounting(shell(script("/v")), propagating(host, "/v", v1.MountPropagation_BIDIRECTIONAL)), true},
		"BIDIRECTIONAL, on the host": {mounting(bb("mount() { bb mount \"$@\"; }; touch() { bb touch \"$@\"; }; ls() { bb ls \"$@\"; }; "+script("v")), propagating(host, "v", v1.MountPropagation_BIDIRECTIONAL)), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.start(test.config)
			c.says("ready")
			if err := unix.Mount("late", host+"/late", "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			r.writeFile(host+"/late/of-host", "")
			c.stdin.Write([]byte("\n"))
			if o := c.wait(); o.stdout != "ready\nof-host\n" {
				t.Errorf("%+v", o)
			}
			_, err := os.Stat(host + "/back/of-container")
			if back := err == nil; back != test.back {
				t.Errorf("what the container mounts is on the host: %v", back)
			}
			if err := unix.Unmount(host+"/late", 0); err != nil {
				t.Error(err)
			}
			if test.back {
				if err := unix.Unmount(host+"/back", 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Below a mount that is nobody's peer.
	if err := unix.Mount("", host, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if o := r.run(mounting(shell("true"), propagating(host, "/v", v1.MountPropagation_BIDIRECTIONAL))); !errors.Is(o.err, container.ErrInvalid) || !strings.Contains(o.err.Error(), "make-shared") {
		t.Errorf("%+v", o)
	}
	if err := unix.Unmount(host, 0); err != nil {
		t.Error(err)
	}
}

// With the bind backend nothing can be made in the root filesystem.
func TestTheMissingDirectoryOfAReadOnlyImageIsNamed(t *testing.T) {
	r := newRigWith(t, "bind", nil)
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	const img = "of-one-layer"
	err = r.store.put(t.Context(), img, image.RunConfig{}, nil, pack(dir("proc", 0o755), dir("sys", 0o755), dir("dev", 0o755),
		dir("mnt/mesos/sandbox", 0o755), dir("data", 0o755), dir("bin", 0o755), file("bin/busybox", 0o755, string(program))))
	if err != nil {
		t.Fatal(err)
	}
	r.expectOf(mounting(config(img, "/bin/busybox", "touch", "/data/x"), hostVolume("d", "/data", "rw")), "")
	o := r.run(mounting(config(img, "/bin/busybox", "true"), hostVolume("d", "/missing/deep", "rw")))
	if o.err == nil || !strings.Contains(o.err.Error(), "does not have /missing") || !strings.Contains(o.err.Error(), "--image_provisioner_backend") {
		t.Errorf("%v", o.err)
	}
}

// What was checked may be another thing when it is mounted.
func TestALinkThatIsMadeAfterTheCheckLeadsNowhere(t *testing.T) {
	var safe, swapped string
	r := newRigWith(t, "overlay", func(p *parts) {
		for n, i := range p.isolators {
			if h, ok := i.(*hostpath.Isolator); ok {
				h.Prefixes = []string{filepath.Dir(p.store.(fileStore).dir)}
				p.isolators = slices.Insert(p.isolators, n+1, isolator.Isolator(&fakeIsolator{prepare: func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
					return nil, errors.Join(os.RemoveAll(safe), os.Symlink(swapped, safe))
				}}))
				return
			}
		}
	})
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, swapped = range []string{outside, "../../../../../.." + outside} {
		safe = r.mkdir("safe", 0o755)
		o := r.run(mounting(shell("ls -d /v/secret"), hostVolume(safe, "/v", "ro")))
		if o.code() == 0 || strings.Contains(o.stdout, "secret") || o.err != nil && !strings.Contains(o.err.Error(), "/v") {
			t.Errorf("-> %s: %+v", swapped, o)
		}
		if err := os.Remove(safe); err != nil {
			t.Fatal(err)
		}
	}
}
