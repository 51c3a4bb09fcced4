//go:build linux

package mesos

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/launcher"
)

// The three kinds of volumes; a mode of "ro" or "rw".

func hostVolume(path, at, mode string) *v1.Volume {
	return &v1.Volume{HostPath: &path, ContainerPath: &at, Mode: modes[mode].Enum()}
}

func imageVolume(name, at, mode string) *v1.Volume {
	return &v1.Volume{Image: imageInfo(name).GetMesos().GetImage(), ContainerPath: &at, Mode: modes[mode].Enum()}
}

func partOf(v *v1.Volume, path string) *v1.Volume {
	v.ImagePath = &path
	return v
}

var modes = map[string]v1.Volume_Mode{"ro": v1.Volume_RO, "rw": v1.Volume_RW}

func mounting(c *v1.ContainerConfig, volumes ...*v1.Volume) *v1.ContainerConfig {
	c.ContainerInfo.Volumes = append(c.ContainerInfo.Volumes, volumes...)
	return c
}

// withVolumes adds one volume of each kind.
func withVolumes(c *v1.ContainerConfig) *v1.ContainerConfig {
	return mounting(c, imageVolume(baseImage, "/image", "rw"), imageVolume(baseImage, "image", "ro"),
		hostVolume("scratch", "/tmp", "rw"), hostVolume("/etc", "/host", "ro"))
}

// onHost asks for a script on the host's file system.
func onHost(script string) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum()}, ImageArguments: []string{busybox, "sh", "-c", script}}
}

func (r *rig) expectOf(config *v1.ContainerConfig, want string) {
	r.Helper()
	if got := strings.TrimSpace(r.output(config)); got != want {
		r.Errorf("%s\nprints %q\nwant   %q", config.GetImageArguments(), got, want)
	}
}

func TestImageVolumes(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		t.Run(backend, func(t *testing.T) {
			r := newRigWith(t, backend, nil)
			data := r.image(image.RunConfig{Env: []string{"OF_VOLUME=yes"}, User: "app", WorkingDir: "/of/volume"},
				pack(dir("data", 0o755), file("data/one", 0o644, "1"), link("data/up", "../../../../data"), link("data/abs", "/data/one")))
			r.expectOf(mounting(shell("cat /v/data/one; echo ${OF_VOLUME-unset} $(id -u) $(pwd)"), imageVolume(data, "/v", "rw")),
				"1unset 0 "+sandboxDir)
			r.expectOf(mounting(shell("cat $MESOS_SANDBOX/v/w/data/one"), imageVolume(data, "v/w", "ro")), "1")
			r.expectOf(mounting(shell("ls /v"), partOf(imageVolume(data, "/v", "ro"), "data/up")), "abs\none\nup")
			r.expectOf(mounting(shell("cat /file"), partOf(imageVolume(data, "/file", "ro"), "/data/abs")), "1")
			r.expectOf(mounting(onHost("cat v/data/one; "+busybox+" touch v/x && echo written"), imageVolume(data, "v", "rw")), "1written")
			r.expectOf(mounting(onHost(busybox+" touch v/x 2>&1 | "+busybox+" grep -c Read-only"), imageVolume(data, "v", "ro")), "1")
		})
	}
}

// A volume is the container's own: neither its image nor another volume of the same
// image changes.
func TestWhatIsWrittenToAnImageVolumeStaysThere(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		t.Run(backend, func(t *testing.T) {
			r := newRigWith(t, backend, nil)
			data := r.image(image.RunConfig{}, pack(file("one", 0o644, "1")))
			two := func(script string) *v1.ContainerConfig {
				return mounting(shell(script), imageVolume(data, "/a", "rw"), imageVolume(data, "/b", "rw"), imageVolume(data, "/c", "ro"))
			}
			r.expectOf(two("echo 2 >/a/one; rm -r /a/etc; chmod 0 /a/plain; cat /b/one /c/one /a/one; ls -d /b/etc; touch /c/x 2>&1 | grep -c Read-only"),
				"112\n/b/etc\n1")
			r.expectOf(two("cat /a/one /b/one /c/one; ls -d /a/etc"), "111/a/etc")
		})
	}
}

func TestAReadOnlyVolumeIsSoAltogether(t *testing.T) {
	r := newRig(t)
	host := filepath.Join(r.dir, "host")
	if err := os.Mkdir(host, 0o777); err != nil {
		t.Fatal(err)
	}
	// Also what is mounted below it.
	r.expectOf(mounting(shell("touch /h/x 2>&1 | grep -c Read-only; touch /rw/x && echo written"),
		hostVolume("/", "/h", "ro"), hostVolume(host, "/rw", "rw")), "1\nwritten")
	r.expectOf(mounting(shell("for d in /h/dev/shm /h/sys /h"+host+"; do touch $d/x 2>&1; done | grep -c -e Read-only"),
		hostVolume("/", "/h", "ro")), "3")
	if _, err := os.Stat(filepath.Join(host, "x")); err != nil {
		t.Error(err)
	}
}

// Of an image volume nothing gives the container's processes more than they have.
func TestAnImageVolumeGivesNoPrivileges(t *testing.T) {
	r := newRig(t)
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	data := r.image(image.RunConfig{}, pack(file("busybox", 0o4755, string(program)), device("zero2", 1, 5)))
	request := mounting(shell("/v/busybox id -u; head -c 1 /v/zero2 2>&1 | grep -c denied"), imageVolume(data, "/v", "rw"))
	request.User = proto.String("app")
	r.expectOf(request, "1000\n1")
}

func TestVolumesInVolumes(t *testing.T) {
	r := newRig(t)
	data := r.image(image.RunConfig{}, pack(file("one", 0o644, "1")))
	host := filepath.Join(r.dir, "host")
	if err := os.MkdirAll(filepath.Join(host, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, volumes := range map[string][]*v1.Volume{
		"the outer first": {imageVolume(data, "/v", "rw"), hostVolume(host, "/v/h", "rw"), imageVolume(data, "/v/h/in", "ro")},
		"the inner first": {imageVolume(data, "/v/h/in", "ro"), hostVolume(host, "/v/h", "rw"), imageVolume(data, "/v", "rw")},
	} {
		t.Run(name, func(t *testing.T) {
			c := shell("cat /v/one /v/h/in/one; ls /v/h")
			r.expectOf(mounting(c, volumes...), "11in")
		})
	}
}

func TestDirectoriesOfTheSandbox(t *testing.T) {
	r := newRig(t)
	r.expectOf(mounting(shell("stat -c %a:%u /tmp /home/app /new; touch /tmp/x; ls $MESOS_SANDBOX $MESOS_SANDBOX/tmp $MESOS_SANDBOX/a/b"),
		hostVolume("tmp", "/tmp", "rw"), hostVolume("a/b", "/home/app", "rw"), hostVolume("new", "/new", "ro")),
		"1777:0\n700:1000\n755:0\n"+sandboxDir+":\na\nnew\ntmp\n\n"+sandboxDir+"/a/b:\n\n"+sandboxDir+"/tmp:\nx")
	// The user gets what was made for nothing that is there.
	request := mounting(shell("stat -c %u /tmp /new $MESOS_SANDBOX/box; touch /new/x box/x"),
		hostVolume("tmp", "/tmp", "rw"), hostVolume("new", "/new", "rw"), hostVolume("boxed", "box", "rw"))
	request.User = proto.String("app")
	r.expectOf(request, "0\n1000\n1000")
	// The same one in two places.
	r.expectOf(mounting(shell("echo 1 >/x/f; cat /y/f; touch /y/g 2>&1 | grep -c Read-only"),
		hostVolume("d", "/x", "rw"), hostVolume("d", "/y", "ro")), "1\n1")
	// A private directory on the host's file system.
	public := filepath.Join(r.dir, "public")
	if err := errors.Join(os.Mkdir(public, 0), os.Chmod(public, 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	r.expectOf(mounting(onHost(busybox+" stat -c %a "+public+"; : >"+public+"/x; "+busybox+" ls mine"), hostVolume("mine", public, "rw")), "1777\nx")
	if _, err := os.Stat(public + "/x"); err == nil {
		t.Error("it was written on the host")
	}
}

// Nothing that the container needs is made in a volume: the directory is the host's.
func TestVolumesInThePlacesOfTheKernel(t *testing.T) {
	r := newRig(t)
	host := filepath.Join(r.dir, "host")
	if err := errors.Join(os.Mkdir(host, 0o755), os.WriteFile(filepath.Join(host, "file"), []byte("mine\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	before := tree(t, host)
	for _, at := range []string{"/proc", "/sys", "/dev", "/mnt", "/mnt/mesos"} {
		for _, v := range []*v1.Volume{hostVolume(host, at, "rw"), imageVolume(baseImage, at, "rw")} {
			if o := r.run(mounting(shell("true"), v)); !errors.Is(o.err, container.ErrInvalid) || !strings.Contains(o.err.Error(), "hide") {
				t.Errorf("a volume at %s: %v", at, o.err)
			}
		}
	}
	r.expectOf(mounting(shell("cat /dev/shm/file /dev/null /proc/uptime; stat -c %t:%T /dev/zero"),
		hostVolume(host, "/dev/shm", "rw"), hostVolume(filepath.Join(host, "file"), "/proc/uptime", "ro"),
		hostVolume(filepath.Join(host, "file"), "/dev/null", "ro")), "mine\nmine\nmine\n1:5")
	if after := tree(t, host); after != before {
		t.Errorf("the host's directory was\n%s\nand is\n%s", before, after)
	}
}

// Links of an image in the path of a volume lead nowhere but into the image.
func TestLinksInThePathOfAVolume(t *testing.T) {
	r := newRig(t)
	host := filepath.Join(r.dir, "host")
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := tree(t, host)
	data := r.image(image.RunConfig{}, pack(file("marked", 0o644, "")))
	for _, target := range []string{"/", "..", host, host + "/sub", "../../../.." + host, "/proc/self/root" + host, "/proc/1/root", "self", "/proc", "/proc/sys", "/dev", "/no/such"} {
		img := r.image(image.RunConfig{}, pack(link("trap", target), dir("real", 0o755), link("real/trap", target)))
		for _, at := range []string{"/trap", "/trap/in", "/real/trap/in/deep"} {
			o := r.run(mounting(config(img, "sh", "-c", "ls -d /bin /dev/zero /proc/self/exe >/dev/null && ls "+host), imageVolume(data, at, "rw")))
			var start *launcher.StartError
			switch {
			case errors.As(o.err, &start):
				if start.Code != 125 || !strings.Contains(o.err.Error(), "mount volume "+at) {
					t.Errorf("%s -> %s: %v", at, target, o.err)
				}
			case o.err != nil:
				t.Errorf("%s -> %s: %v", at, target, o.err)
			case strings.Contains(o.stderr, "/bin") || strings.Contains(o.stderr, "/dev") || strings.Contains(o.stderr, "/proc"):
				t.Errorf("%s -> %s: %q", at, target, o.stderr)
			}
		}
		// And those in the volume do not lead its image_path out.
		o := r.run(mounting(shell("ls -d /v/sub"), partOf(imageVolume(img, "/v", "rw"), "real/trap")))
		if o.code() == 0 {
			t.Errorf("image_path -> %s shows %q", target, o.stdout)
		}
	}
	if after := tree(t, host); after != before {
		t.Errorf("the host's directory was\n%s\nand is\n%s", before, after)
	}
}

func TestVolumesThatCannotBe(t *testing.T) {
	r := newRig(t)
	for name, test := range map[string]struct {
		config *v1.ContainerConfig
		words  string
	}{
		"an image that is missing":      {mounting(shell("true"), imageVolume("missing", "/v", "ro")), "image missing: not found"},
		"a second one that is missing":  {mounting(shell("true"), imageVolume(baseImage, "/u", "ro"), imageVolume("missing", "/v", "ro")), "image missing: not found"},
		"a path that is missing":        {mounting(shell("true"), hostVolume(r.dir+"/missing", "/v", "ro")), "missing: no such file"},
		"a path of the image missing":   {mounting(shell("true"), partOf(imageVolume(baseImage, "/v", "ro"), "no/such")), "no/such"},
		"a target that climbs":          {mounting(shell("true"), imageVolume(baseImage, "/a/../../v", "ro")), `contains ".."`},
		"a relative target that climbs": {mounting(shell("true"), imageVolume(baseImage, "../v", "ro")), `contains ".."`},
		"a source that climbs":          {mounting(shell("true"), hostVolume("../../etc", "/v", "ro")), `contains ".."`},
		"a target that is a file":       {mounting(shell("true"), imageVolume(baseImage, "/plain", "ro")), "directory"},
		"a target below a file":         {mounting(shell("true"), imageVolume(baseImage, "/plain/v", "ro")), "not a directory"},
		"a file on a directory":         {mounting(shell("true"), hostVolume(r.canary, "/etc", "ro")), "directory"},
		"two in one place":              {mounting(shell("true"), imageVolume(baseImage, "/v", "ro"), hostVolume("v", "/v/", "ro")), "same place"},
		"everything":                    {mounting(shell("true"), imageVolume(baseImage, "/", "ro")), "container_path"},
		"the sandbox":                   {mounting(shell("true"), imageVolume(baseImage, ".", "ro")), "container_path"},
		"on the host, a target to make": {mounting(onHost("true"), imageVolume(baseImage, r.dir+"/made", "ro")), "must exist"},
		"on the host, over the sandbox": {mounting(onHost("true"), imageVolume(baseImage, r.dir, "ro")), "hide the sandbox"},
		"below a read-only volume":      {mounting(shell("true"), imageVolume(baseImage, "/v", "ro"), hostVolume("d", "/v/new", "rw")), "read-only"},
		"a source nobody mounts": {mounting(shell("true"), &v1.Volume{ContainerPath: proto.String("/v"), Mode: v1.Volume_RO.Enum(), Source: &v1.Volume_Source{
			Type: v1.Volume_Source_DOCKER_VOLUME.Enum(), DockerVolume: &v1.Volume_Source_DockerVolume{Name: proto.String("v")}}}), "DOCKER_VOLUME"},
		"a secret by name": {mounting(shell("true"), secretVolume(&v1.Secret{Type: v1.Secret_REFERENCE.Enum(),
			Reference: &v1.Secret_Reference{Name: proto.String("password")}}, "/v", "ro")), "password"},
		"no source":                       {mounting(shell("true"), &v1.Volume{ContainerPath: proto.String("/v"), Mode: v1.Volume_RO.Enum()}), "host_path, image and source"},
		"a path of a volume without mode": {mounting(shell("true"), &v1.Volume{ContainerPath: proto.String("/v"), HostPath: proto.String("/etc")}), "mode"},
	} {
		o := r.run(test.config)
		if o.err == nil || !strings.Contains(o.err.Error(), test.words) {
			t.Errorf("%s: %d, %v; want it to say %q", name, o.code(), o.err, test.words)
		}
		r.assertNothingLeft()
	}
	if _, err := os.Stat(r.dir + "/made"); err == nil {
		t.Error("a directory was made on the host")
	}
}
