package appc

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
	"berth/registry"
)

// The diffID is that of the content, whatever the image's compression and other names.
func TestALayerIsTheSameHoweverItsImageIsPacked(t *testing.T) {
	b := newBench(t)
	entries := []testrig.ACIEntry{testrig.ACIDir("rootfs"), testrig.ACIDir("rootfs/etc"), file("etc/a", "a")}
	var first []image.Digest
	for _, program := range []string{"", "gzip", "bzip2", "xz"} {
		name := "of-" + program
		if program == "" {
			name = "plain"
		}
		aci := testrig.ACI(t, named(name), entries...)
		if program != "" {
			aci = testrig.Compress(t, program, aci)
		}
		b.Put(place(name, "latest"), aci)
		got := b.pull(t, ask(name))
		if first == nil {
			first = got.Layers
		}
		if !slices.Equal(got.Layers, first) {
			t.Errorf("%s: layers %v, want %v", name, got.Layers, first)
		}
	}
}

func TestAttributesOfTheRootfsSurvive(t *testing.T) {
	b := newBench(t)
	root := testrig.ACIDir("rootfs")
	root.Mode = 0o711
	program := testrig.ACIEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "./rootfs//bin/su", Mode: 0o4755, Uid: 0, Gid: 7, ModTime: time.Unix(1234567890, 0),
		PAXRecords: map[string]string{"SCHILY.xattr.user.mark": "x", "SCHILY.xattr.trusted.overlay.opaque": "y"}}, Content: "su"}
	link := testrig.ACIEntry{Header: tar.Header{Typeflag: tar.TypeLink, Name: "rootfs/bin/hard", Linkname: "rootfs/bin/su"}}
	soft := testrig.ACIEntry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "rootfs/bin/soft", Linkname: "/bin/su"}}
	b.publish(t, named("a"), root, program, link, soft)
	got := b.pull(t, ask("a"))
	tree := b.layers.Path(got.Layers[0], layer.Tree)
	entries, err := testrig.Manifest(tree)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 { // with the root and the directory that is implied
		t.Errorf("entries are %+v", entries)
	}
	stat, err := os.Stat(filepath.Join(tree, "bin/hard"))
	if err != nil || stat.Mode() != 0o755|os.ModeSetuid || !stat.ModTime().Equal(time.Unix(1234567890, 0)) {
		t.Errorf("%v, %v", stat, err)
	}
	if info, err := os.Stat(tree); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the root: %v, %v", info, err)
	}
}

func TestDependenciesComeBelowInTheirOrder(t *testing.T) {
	b := newBench(t)
	// app on left and right, both on base: the second place of base counts.
	for _, m := range []manifest{named("base"), named("left", on("base")), named("right", on("base")), named("app", on("left", "right"))} {
		name := strings.TrimPrefix(m["name"].(string), domain)
		b.publish(t, m, file(name, name), file("last", name))
	}
	got := b.pull(t, ask("app"))
	var order []string
	for _, id := range got.Layers {
		order = append(order, b.seen(t, []image.Digest{id})["last"])
	}
	if want := []string{"left", "base", "right", "app"}; !slices.Equal(order, want) {
		t.Errorf("the layers are those of %q, want %q", order, want)
	}
	if n := len(b.Requests()); n != 4 {
		t.Errorf("%d requests, want one for each image: %q", n, b.Requests())
	}
}

// Mesos returned the manifest of the first dependency.
func TestTheManifestIsThatOfTheImageItself(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("base", with("app", map[string]any{"exec": []string{"/base"}, "user": "0", "group": "0"})), file("a", "a"))
	b.publish(t, named("app", on("base"), with("app", map[string]any{"exec": []string{"/app", "-x"}, "user": "me", "group": "us",
		"environment": []any{map[string]any{"name": "A", "value": "b"}}})), file("b", "b"))
	b.publish(t, named("bare", on("base")), file("c", "c"))
	for range 2 { // pulled and cached
		got := b.pull(t, ask("app"))
		want := image.RunConfig{Cmd: []string{"/app", "-x"}, User: "me:us", Env: []string{"A=b"}}
		if diff := cmp.Diff(want.Cmd, got.Run.Cmd); diff != "" || got.Run.User != want.User || got.Appc.App.Exec[0] != "/app" {
			t.Errorf("%+v, %s", got.Run, diff)
		}
		if got := b.pull(t, ask("bare")); got.Appc == nil || got.Appc.App != nil || len(got.Run.Cmd) > 0 {
			t.Errorf("an image without an app is run as %+v", got.Run)
		}
	}
}

func TestPathWhitelist(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("base"), testrig.ACIDir("rootfs/etc"), file("etc/a", "a"), file("etc/b", "b"), file("top", "t"), file("lib/x", "x"))
	b.publish(t, named("part", on("base"), with("pathWhitelist", []string{"/etc/a", "/lib/x", "/own"})), file("own", "o"), file("mine", "m"))
	b.publish(t, named("app", on("base"), with("pathWhitelist", []string{"/etc/a", "/new", "/not-there"})), file("new", "n"), file("old", "o"))
	b.publish(t, named("outer", on("part"), with("pathWhitelist", []string{"/etc/a", "/own", "/extra", "/mine"})), file("extra", "e"))
	b.publish(t, named("beside", on("base", "part")), file("z", "z"))
	for name, want := range map[string]map[string]string{
		"base":  {"etc/a": "a", "etc/b": "b", "top": "t", "lib/x": "x"},
		"part":  {"etc/a": "a", "lib/x": "x", "own": "o"},
		"app":   {"etc/a": "a", "new": "n"},
		"outer": {"etc/a": "a", "own": "o", "extra": "e"}, // /mine was gone below
		// What the list of a dependency drops comes from another one.
		"beside": {"etc/a": "a", "etc/b": "b", "top": "t", "lib/x": "x", "own": "o", "z": "z"},
	} {
		got := b.pull(t, ask(name))
		if diff := cmp.Diff(want, b.seen(t, got.Layers)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// Each of these layers can be fetched again.
	got := b.pull(t, ask("outer"))
	for _, id := range got.Layers {
		if err := os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", id.String())); err != nil {
			t.Fatal(err)
		}
	}
	if again := b.pull(t, ask("outer")); !slices.Equal(again.Layers, got.Layers) {
		t.Errorf("%v, then %v", got.Layers, again.Layers)
	}
}

func TestARequestWithoutAVersionHitsTheCache(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("a", with("labels", []any{map[string]any{"name": "version", "value": "1.2.3"}})), file("a", "a"))
	b.pull(t, ask("a"))
	before := len(b.Requests())
	b.pull(t, ask("a"))
	whole := &v1.Image{Type: v1.Image_APPC.Enum(), Appc: &v1.Image_Appc{Name: proto.String("appc:" + domain + "a")}}
	b.pull(t, whole)
	if n := len(b.Requests()) - before; n > 0 {
		t.Errorf("%d requests for what is cached", n)
	}
}

func TestLabelsAndIDOfTheMessage(t *testing.T) {
	b := newBench(t)
	aci := testrig.ACI(t, named("a", with("labels", []any{map[string]any{"name": "version", "value": "2"}})), file("a", "a"))
	b.Put(place("a", "2"), aci)
	img := ask("a")
	img.Appc.Labels = &v1.Labels{Labels: []*v1.Label{{Key: proto.String("version"), Value: proto.String("2")}}}
	img.Appc.Id = proto.String(idOf(aci))
	got := b.pull(t, img)
	if want := "appc:" + domain + "a,version=2@" + idOf(aci); got.Reference != want {
		t.Errorf("recorded as %q, want %q", got.Reference, want)
	}
	wrong := proto.CloneOf(img)
	wrong.Appc.Id = proto.String("sha512-" + strings.Repeat("0", 128))
	storetest.WantError(t, b.fails(t, wrong), container.ErrInvalid, "image id", idOf(aci))
	if err := b.Store.Remove(t.Context(), img); err != nil {
		t.Error(err)
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	plain := func(name string, entries ...testrig.ACIEntry) func(testing.TB) []byte {
		return func(t testing.TB) []byte { return testrig.ACI(t, named(name), entries...) }
	}
	entry := func(kind byte, name, link string) testrig.ACIEntry {
		return testrig.ACIEntry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: 0o644}}
	}
	ok := testrig.ACIFile("rootfs/ok", "ok")
	for name, c := range map[string]struct {
		aci   func(testing.TB) []byte
		class error
		says  string
	}{
		"nothing":                 {func(testing.TB) []byte { return nil }, container.ErrInvalid, "manifest"},
		"no tar":                  {func(testing.TB) []byte { return bytes.Repeat([]byte("no tar. "), 1000) }, container.ErrInvalid, "not a tar archive"},
		"gzip of no tar":          {func(t testing.TB) []byte { return testrig.Compress(t, "gzip", bytes.Repeat([]byte("no tar. "), 1000)) }, container.ErrInvalid, "not a tar archive"},
		"gzip that is cut off":    {func(t testing.TB) []byte { return testrig.Compress(t, "gzip", plain("a", ok)(t))[:100] }, container.ErrInvalid, "gzip"},
		"bzip2 that is cut off":   {func(t testing.TB) []byte { return testrig.Compress(t, "bzip2", plain("a", ok)(t))[:100] }, container.ErrInvalid, "bzip2"},
		"xz that is cut off":      {func(t testing.TB) []byte { return testrig.Compress(t, "xz", plain("a", ok)(t))[:100] }, container.ErrInvalid, "xz"},
		"tar that is cut off":     {func(t testing.TB) []byte { return plain("a", ok)(t)[:700] }, container.ErrInvalid, ""},
		"encrypted":               {func(testing.TB) []byte { return []byte("\x8c\x0d\x04\x09\x03\x08saltsalt\xff\xd2\x40") }, container.ErrFailedPrecondition, "--appc_passphrase_file"},
		"no manifest":             {func(t testing.TB) []byte { return testrig.ACITar(t, ok) }, container.ErrInvalid, `no file "manifest"`},
		"no rootfs":               {plain("a"), container.ErrInvalid, `no directory "rootfs"`},
		"a rootfs that is a file": {plain("a", testrig.ACIFile("rootfs", "")), container.ErrInvalid, "not one directory"},
		"two manifests":           {plain("a", ok, testrig.ACIFile("manifest", "{}")), container.ErrInvalid, "twice"},
		"two roots":               {plain("a", testrig.ACIDir("rootfs"), testrig.ACIDir("./rootfs")), container.ErrInvalid, "not one directory"},
		"a third entry":           {plain("a", ok, testrig.ACIFile("signature", "")), container.ErrInvalid, "nothing else"},
		"a manifest that is a link": {func(t testing.TB) []byte {
			return testrig.ACITar(t, ok, entry(tar.TypeSymlink, "manifest", "/etc/passwd"))
		}, container.ErrInvalid, "not a plain file"},
		"a manifest of no end": {func(t testing.TB) []byte {
			return testrig.ACITar(t, ok, testrig.ACIFile("manifest", strings.Repeat(" ", 5<<20)))
		}, container.ErrInvalid, "at most"},
		"a manifest that is none": {func(t testing.TB) []byte { return testrig.ACITar(t, ok, testrig.ACIFile("manifest", "{}")) }, container.ErrNotSupported, "acKind"},
		"another name":            {plain("b", ok), container.ErrInvalid, "example.com/b"},
		"a manifest that is not UTF-8": {func(t testing.TB) []byte {
			text := `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/a","annotations":[{"name":"a","value":"` + "\xff" + `"}]}`
			return testrig.ACITar(t, ok, testrig.ACIFile("manifest", text))
		}, container.ErrInvalid, "UTF-8"},
		"a name out of the rootfs":      {plain("a", testrig.ACIFile("rootfs/../etc/passwd", "")), container.ErrInvalid, `".."`},
		"an absolute name":              {plain("a", testrig.ACIFile("/rootfs/etc/passwd", "")), container.ErrInvalid, "absolute"},
		"a hard link to the manifest":   {plain("a", ok, entry(tar.TypeLink, "rootfs/m", "manifest")), container.ErrInvalid, "hard link"},
		"a hard link out of the rootfs": {plain("a", ok, entry(tar.TypeLink, "rootfs/m", "rootfs/../../etc/shadow")), container.ErrInvalid, "hard link"},
		"a hard link to nothing":        {plain("a", ok, entry(tar.TypeLink, "rootfs/m", "rootfs/none")), container.ErrInvalid, "does not have"},
		"through a symbolic link":       {plain("a", entry(tar.TypeSymlink, "rootfs/out", "/etc"), testrig.ACIFile("rootfs/out/passwd", "")), container.ErrInvalid, "symbolic link"},
		"a file twice":                  {plain("a", ok, ok), container.ErrInvalid, "same name"},
		"a whiteout":                    {plain("a", testrig.ACIFile("rootfs/etc/.wh.passwd", "")), container.ErrNotSupported, ".wh."},
		"overlayfs's whiteout":          {plain("a", entry(tar.TypeChar, "rootfs/passwd", "")), container.ErrInvalid, "0:0"},
		"another architecture": {func(t testing.TB) []byte {
			return testrig.ACI(t, named("a", with("labels", []any{map[string]any{"name": "arch", "value": "armv7b"}})), ok)
		}, container.ErrNotFound, "armv7b"},
		"a whitelist that cuts a hard link": {func(t testing.TB) []byte {
			return testrig.ACI(t, named("a", with("pathWhitelist", []string{"/l"})), ok, entry(tar.TypeLink, "rootfs/l", "rootfs/ok"))
		}, container.ErrNotSupported, "pathWhitelist"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.Put(place("a", "latest"), c.aci(t))
			storetest.WantError(t, b.fails(t, ask("a")), c.class, "appc:"+domain+"a", c.says)
			b.wantNothing(t)
		})
	}
}

func TestDependenciesThatAreRefused(t *testing.T) {
	dependency := func(m map[string]any) func(manifest) { return with("dependencies", []any{m}) }
	for name, c := range map[string]struct {
		put   func(*testing.T, *bench)
		class error
		says  string
	}{
		"a circle of two": {func(t *testing.T, b *bench) {
			b.publish(t, named("a", on("b")), file("a", "a"))
			b.publish(t, named("b", on("a")), file("b", "b"))
		}, container.ErrInvalid, "depends on itself"},
		"the image itself": {func(t *testing.T, b *bench) { b.publish(t, named("a", on("a")), file("a", "a")) }, container.ErrInvalid, "depends on itself"},
		"a missing one":    {func(t *testing.T, b *bench) { b.publish(t, named("a", on("b")), file("a", "a")) }, container.ErrNotFound, "dependency example.com/b"},
		"the wrong id": {func(t *testing.T, b *bench) {
			b.publish(t, named("b"), file("b", "b"))
			b.publish(t, named("a", dependency(map[string]any{"imageName": domain + "b", "imageID": "sha512-" + strings.Repeat("0", 128)})), file("a", "a"))
		}, container.ErrInvalid, "image id"},
		"the wrong size": {func(t *testing.T, b *bench) {
			b.publish(t, named("b"), file("b", "b"))
			b.publish(t, named("a", dependency(map[string]any{"imageName": domain + "b", "size": 10})), file("a", "a"))
		}, container.ErrInvalid, "says 10"},
		"the wrong label": {func(t *testing.T, b *bench) {
			b.Put(place("b", "2"), testrig.ACI(t, named("b", with("labels", []any{map[string]any{"name": "version", "value": "1"}})), file("b", "b")))
			b.publish(t, named("a", dependency(map[string]any{"imageName": domain + "b", "labels": []any{map[string]any{"name": "version", "value": "2"}}})), file("a", "a"))
		}, container.ErrInvalid, "version"},
		"manifests without end": {func(t *testing.T, b *bench) {
			big := with("annotations", []any{map[string]any{"name": "a", "value": strings.Repeat("a", 4<<20-1000)}})
			for _, name := range []string{"b", "c", "d", "e"} {
				b.publish(t, named(name, big), file(name, name))
			}
			b.publish(t, named("a", on("b", "c", "d", "e"), big), file("a", "a"))
		}, container.ErrInvalid, "manifests of the images"},
		"doubling without end": {func(t *testing.T, b *bench) {
			for i := range 20 {
				next := string(rune('a' + i + 1))
				b.publish(t, named(string(rune('a'+i)), on(next, next)), file("f", next))
			}
			b.publish(t, named("u"), file("f", "end"))
		}, container.ErrInvalid, "dependencies are more than"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.put(t, b)
			storetest.WantError(t, b.fails(t, ask("a")), c.class, "appc:"+domain+"a", c.says)
			b.wantNothing(t)
		})
	}
}

// A server that never stops sends no more than the dependency is said to have.
func TestADependencyOfEndlessDataEnds(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("a", with("dependencies", []any{map[string]any{"imageName": domain + "b", "size": 1 << 20}})), file("a", "a"))
	sent := 0
	ended := make(chan struct{})
	b.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/b-") {
			return false
		}
		defer close(ended)
		for {
			n, err := w.Write(make([]byte, 64<<10))
			if sent += n; err != nil {
				return true
			}
		}
	})
	storetest.WantError(t, b.fails(t, ask("a")), container.ErrInvalid, "says 1048576")
	<-ended
	if sent > 64<<20 { // what the buffers of both ends hold
		t.Errorf("%d bytes were sent", sent)
	}
	b.wantNothing(t)
}

func TestSignatures(t *testing.T) {
	key, other := testrig.NewPGPKey(t), testrig.NewPGPKey(t)
	trusting := func(ring string) func(*Options) { return func(o *Options) { o.Keyring = ring } }
	ring := key.Ring(t)
	b := newBench(t)
	base := b.publish(t, named("base"), file("base", "b"))
	app := b.publish(t, named("app", on("base")), file("app", "a"))
	b.pull(t, ask("app")) // without a key ring nobody asks for signatures
	if asked := b.Requests(); slices.ContainsFunc(asked, func(name string) bool { return strings.HasSuffix(name, ".asc") }) {
		t.Errorf("asked for %q", asked)
	}
	b.open(t, trusting(ring))
	sign := func(name string, signature []byte) { b.Put(place(name, "latest")+".asc", signature) }
	refused := func(says ...string) {
		t.Helper()
		storetest.WantError(t, b.fails(t, ask("app")), container.ErrDenied, says...)
	}
	refused("no signature") // what is recorded was not verified
	sign("app", key.Sign(t, app))
	refused("dependency", "base", "no signature")
	sign("base", other.Sign(t, base))
	refused("dependency", "base", "--appc_keyring")
	sign("base", key.Sign(t, app))
	refused("dependency", "base", "--appc_keyring")
	sign("base", []byte("no signature"))
	refused("dependency", "base", "--appc_keyring")
	sign("base", key.Sign(t, base))
	b.pull(t, ask("app"))
	before := len(b.Requests())
	b.pull(t, ask("app"))
	if n := len(b.Requests()) - before; n > 0 {
		t.Errorf("%d requests for what was verified", n)
	}
	// A key that is trusted no longer.
	b.open(t, trusting(other.Ring(t)))
	refused("--appc_keyring")
	if _, err := New(Options{Options: fetch.Options{Dir: b.dir, Layers: b.layers}, Keyring: "/dev/null", Prefix: b.Prefix}); err == nil {
		t.Error("an empty key ring is accepted")
	}
}

// long is a passphrase: gpg hashes megabytes of its repetitions, and short ones take their
// time in a test that looks for races.
var long = strings.Repeat("open sesame ", 20)

// gpgHome is a directory for gpg, whose name has to be short: it is part of those of sockets.
func gpgHome(t *testing.T) string {
	testrig.RequireTools(t, "gpg")
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // there may be no agent
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return home
}

// Signatures and encryption as gpg makes them.
func TestImagesOfGPG(t *testing.T) {
	home := gpgHome(t)
	gpg := func(stdin []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "secret"}, args...)...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %q: %v, %+v", args, err, err)
		}
		return out
	}
	gpg(nil, "--quick-gen-key", "test@example.com", "ed25519", "sign", "never")
	ring, passphrase := filepath.Join(home, "ring.asc"), filepath.Join(home, "passphrase")
	if err := os.WriteFile(ring, gpg(nil, "--armor", "--export"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(passphrase, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(long + "\n")
	set := func(o *Options) { o.Keyring, o.PassphraseFile = ring, passphrase }
	b := newBench(t, set)
	for name, args := range map[string][]string{"binary": nil, "armored": {"--armor"}, "plain": {"--compress-algo", "none"}} {
		aci := testrig.Compress(t, "gzip", testrig.ACI(t, named(name), file("a", strings.Repeat("much ", 100_000))))
		cmd := append([]string{"--passphrase", long, "--symmetric"}, args...)
		encrypted := gpg(aci, cmd...)
		b.Put(place(name, "latest"), encrypted)
		b.Put(place(name, "latest")+".asc", gpg(encrypted, "--armor", "--detach-sign"))
		if got := b.pull(t, ask(name)); len(b.seen(t, got.Layers)["a"]) != 500_000 {
			t.Errorf("%s: the layer is %v", name, got.Layers)
		}
	}
	write("open says me\n")
	b.open(t, set)
	storetest.WantError(t, b.fails(t, uncached(ask("binary"))), container.ErrFailedPrecondition, "another passphrase")
	write("\n")
	if _, err := New(Options{Options: fetch.Options{Dir: b.dir, Layers: b.layers}, PassphraseFile: passphrase}); err == nil {
		t.Error("an empty passphrase is accepted")
	}
}

// A byte of an encrypted image that was changed is found, wherever it is.
func TestAnEncryptedImageThatWasChanged(t *testing.T) {
	home := gpgHome(t)
	passphrase := filepath.Join(home, "passphrase")
	if err := os.WriteFile(passphrase, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(o *Options) { o.PassphraseFile = passphrase })
	cmd := exec.Command("gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", long, "--compress-algo", "none", "--symmetric")
	cmd.Stdin = bytes.NewReader(testrig.ACI(t, named("a"), file("a", strings.Repeat("content ", 1000))))
	encrypted, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{40, len(encrypted) / 2, len(encrypted) - 1} {
		changed := bytes.Clone(encrypted)
		changed[at] ^= 1
		b.Put(place("a", "latest"), changed)
		b.fails(t, ask("a"))
		b.wantNothing(t)
	}
}

func TestAnImageThatChangesInItsPlace(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("a"), file("a", "one"))
	first := b.pull(t, ask("a"))
	b.publish(t, named("a"), file("a", "two"))
	if again := b.pull(t, ask("a")); !slices.Equal(again.Layers, first.Layers) {
		t.Error("a recorded image is not what it was")
	}
	// What is lost cannot be had any more: the image is pulled anew.
	if err := os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", first.Layers[0].String())); err != nil {
		t.Fatal(err)
	}
	if got := b.seen(t, b.pull(t, ask("a")).Layers)["a"]; got != "two" {
		t.Errorf("the image has %q", got)
	}
	b.publish(t, named("a"), file("a", "three"))
	if got := b.seen(t, b.pull(t, uncached(ask("a"))).Layers)["a"]; got != "three" {
		t.Errorf("asked for anew, the image has %q", got)
	}
	// The same files, and another manifest: it is another image.
	b.publish(t, named("a", with("app", map[string]any{"exec": []string{"/new"}})), file("a", "three"))
	if err := os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", b.pull(t, ask("a")).Layers[0].String())); err != nil {
		t.Fatal(err)
	}
	if got := b.pull(t, ask("a")); got.Appc.App == nil {
		t.Error("the layer of another image is taken for that of the recorded one")
	}
}

func TestImagesOfADirectory(t *testing.T) {
	b := newBench(t)
	dir := testrig.TempDir(t)
	path := filepath.Join(dir, place("a", "latest"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{dir + "/", "file://" + dir + "/"} {
		b.open(t, func(o *Options) { o.Prefix = prefix })
		if err := os.WriteFile(path, testrig.ACI(t, named("a"), file("a", "a")), 0o644); err != nil {
			t.Fatal(err)
		}
		b.pull(t, uncached(ask("a")))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		storetest.WantError(t, b.fails(t, uncached(ask("a"))), container.ErrNotFound, "example.com/a")
		// A FIFO would block for ever.
		if err := exec.Command("mkfifo", path).Run(); err != nil {
			t.Fatal(err)
		}
		storetest.WantError(t, b.fails(t, uncached(ask("a"))), container.ErrInvalid, "not a regular file")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for prefix, good := range map[string]bool{
		"": true, "http://": true, "https://images.example.com/": true, "/srv/aci/": true, "file:///srv/aci/": true,
		"hdfs://x/": false, "relative/": false, "file://host/x": false, "example.com": false, "https://bob:secret@example.com/": false,
	} {
		err := checkPrefix(prefix)
		if (err == nil) != good {
			t.Errorf("%q: %v", prefix, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error has the password: %v", err)
		}
	}
}

// web answers https for every host.
type web func(http.ResponseWriter, *http.Request)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	w(answer, r)
	return answer.Result(), nil
}

func TestMetaDiscovery(t *testing.T) {
	aci := testrig.ACI(t, named("team/a", with("labels", []any{map[string]any{"name": "version", "value": "7"}})), file("a", "a"))
	var asked []string
	pages := map[string]string{
		"https://example.com/team?ac-discovery=1": `<html><head><meta name="ac-discovery" content="example.com/team https://cdn.example.net/missing/{name}.{ext}">
			<meta name="ac-discovery" content="example.com/team https://cdn.example.net/{os}/{arch}/{name}-{version}.{ext}"></head></html>`,
		"https://example.com/hostile?ac-discovery=1":                                       `<meta name="ac-discovery" content="example.com /etc/passwd">`,
		"https://cdn.example.net/linux/" + testrig.ACIArch() + "/example.com/team/a-7.aci": string(aci),
	}
	b := newBench(t, func(o *Options) {
		o.Prefix = ""
		o.Web = registry.NewClient(registry.Options{Transport: web(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.String())
			if text, ok := pages[r.URL.String()]; ok {
				_, _ = w.Write([]byte(text))
				return
			}
			w.WriteHeader(http.StatusNotFound)
		})})
	})
	img := ask("team/a")
	img.Appc.Labels = &v1.Labels{Labels: []*v1.Label{{Key: proto.String("version"), Value: proto.String("7")}}}
	b.pull(t, img)
	want := []string{"https://example.com/team/a?ac-discovery=1", "https://example.com/team?ac-discovery=1",
		"https://cdn.example.net/missing/example.com/team/a.aci", "https://cdn.example.net/linux/" + testrig.ACIArch() + "/example.com/team/a-7.aci"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q", asked)
	}
	storetest.WantError(t, b.fails(t, ask("hostile")), container.ErrNotFound, "no page says where it is", "https://example.com/hostile")
	b.pull(t, img) // what is recorded needs no discovery
}

func TestABrokenRecordIsReplacedAndANewerOneStays(t *testing.T) {
	b := newBench(t)
	b.publish(t, named("a"), file("a", "a"))
	b.pull(t, ask("a"))
	paths, err := filepath.Glob(filepath.Join(b.dir, "appc/images/*.json"))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	path := paths[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string][]byte{
		"torn":             whole[:len(whole)/2],
		"another image":    bytes.ReplaceAll(whole, []byte("appc:"+domain+"a"), []byte("appc:"+domain+"b")),
		"a spoilt id":      bytes.ReplaceAll(whole, []byte("sha512-"), []byte("sha511-")),
		"an index too far": bytes.ReplaceAll(whole, []byte(`"top": 0`), []byte(`"top": 1`)),
		"no notes":         bytes.ReplaceAll(whole, []byte(`"notes": {`), []byte(`"notes": null, "other": {`)),
		"notes of another": bytes.ReplaceAll(whole, []byte(`"notes": {`), []byte(`"notes": [], "other": {`)),
	} {
		write(text)
		if _, err := b.List(t.Context()); err == nil {
			t.Errorf("%s: it is read", name)
		}
		b.pull(t, ask("a"))
		if recorded, err := b.List(t.Context()); err != nil || len(recorded) != 1 {
			t.Errorf("%s: after a pull %v, %v", name, recorded, err)
		}
	}
	write(bytes.ReplaceAll(whole, []byte(`"version": 1,`), []byte(`"version": 2,`)))
	storetest.WantError(t, b.fails(t, ask("a")), container.ErrNotSupported, "version 2")
}

func FuzzRead(f *testing.F) {
	f.Add(testrig.ACI(f, named("a"), testrig.ACIDir("rootfs"), file("a", "a")))
	f.Add(testrig.Compress(f, "gzip", testrig.ACI(f, named("a"), file("a", "a"))))
	f.Add(testrig.Compress(f, "xz", testrig.ACI(f, named("a"), file("a", "a"))))
	f.Add([]byte("\x8c\x0d\x04\x09\x03\x08saltsalt\xff\xd2\x40"))
	f.Fuzz(func(t *testing.T, data []byte) {
		inflated, err := inflate(t.Context(), bytes.NewReader(data), []byte("x"))
		if err != nil {
			return
		}
		var out bytes.Buffer
		found, err := read(inflated, nil, &out)
		if err != nil {
			return
		}
		if image.DigestOf(out.Bytes()) != found.diffID {
			t.Fatal("the layer does not have its digest")
		}
		for r := tar.NewReader(&out); ; {
			hdr, err := r.Next()
			if err != nil {
				return
			}
			if strings.HasPrefix(hdr.Name, "/") || strings.Contains("/"+hdr.Name+"/", "/../") {
				t.Fatalf("the layer has %q", hdr.Name)
			}
		}
	})
}

// What a wrong passphrase makes of a message may look like any message, by chance: it is
// called a wrong passphrase all the same. Of these, number 33 makes one of the right form.
func TestAWrongPassphraseIsCalledSo(t *testing.T) {
	var encrypted bytes.Buffer
	w, err := openpgp.SymmetricallyEncrypt(&encrypted, []byte("right"), nil, &packet.Config{S2KConfig: &s2k.Config{S2KCount: 1024}, Rand: rand.NewChaCha8([32]byte{197})})
	if err == nil {
		_, err = w.Write(testrig.ACI(t, named("a"), file("a", strings.Repeat("abcdefgh", 50_000))))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, encrypted.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{file: f, size: int64(encrypted.Len())}
	defer b.close()
	if _, err := (&kind{passphrase: []byte("right")}).read(t.Context(), b, nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		_, err := (&kind{passphrase: fmt.Appendf(nil, "wrong %d", i)}).read(t.Context(), b, nil, io.Discard)
		storetest.WantError(t, err, container.ErrFailedPrecondition, "another passphrase")
	}
}

func FuzzNotes(f *testing.F) {
	f.Add([]byte(`{"images":[{"id":"sha512-`+strings.Repeat("0", 128)+`","at":{"image":"/a","signature":"/b"},"size":1,"manifest":"{\"acKind\":\"ImageManifest\",\"acVersion\":\"0.8.11\",\"name\":\"a\",\"pathWhitelist\":[\"/a\"]}"}],"top":0,"pieces":[{"diffID":"sha256:`+strings.Repeat("0", 64)+`","image":0,"whitelist":[0]}]}`),
		"sha256:"+strings.Repeat("0", 64))
	f.Add([]byte(`{"images":[],"top":-1}`), "")
	f.Fuzz(func(t *testing.T, text []byte, layer string) {
		n := &notes{}
		if json.Unmarshal(text, n) != nil {
			return
		}
		config := &image.Config{DiffIDs: []image.Digest{image.Digest(layer)}}
		if n.Check(config) != nil {
			return
		}
		p, err := n.piece(config.DiffIDs[0])
		if err != nil {
			t.Fatalf("accepted, and %v", err)
		}
		n.whitelist(p)
		if config.Appc == nil || n.Images[p.Image].Manifest == "" {
			t.Fatal("accepted without a manifest")
		}
	})
}
