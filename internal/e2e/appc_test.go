//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/image/appc"
	"berth/internal/testrig"
)

// appcWorld is a server of signed Appc images, of which example.com/app depends on
// example.com/base.
type appcWorld struct {
	*testrig.ACIServer
	key *testrig.PGPKey
}

func newAppcWorld(t *testing.T) *appcWorld {
	t.Helper()
	w := &appcWorld{testrig.NewACIServer(t), testrig.NewPGPKey(t)}
	base := testrig.ACI(t, w.manifest("example.com/base", "2.1", nil), testrig.BusyboxRootfs(t)...)
	w.publish(t, "example.com/base", "2.1", testrig.Compress(t, "gzip", base))
	app := w.manifest("example.com/app", "1.0.0", map[string]any{
		"dependencies": []any{map[string]any{"imageName": "example.com/base", "labels": []any{label("version", "2.1")}}},
		"app": map[string]any{"exec": []string{"/bin/cat", "/etc/app"}, "user": "app", "group": "wheel",
			"supplementaryGIDs": []int{2000, 3000}, "workingDirectory": "/tmp",
			"environment": []any{map[string]any{"name": "FROM_IMAGE", "value": "yes"}}},
	})
	w.publish(t, "example.com/app", "1.0.0", testrig.Compress(t, "xz",
		testrig.ACI(t, app, testrig.ACIDir("rootfs"), testrig.ACIFile("rootfs/etc/app", "of the app\n"))))
	return w
}

func label(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }

func (w *appcWorld) manifest(name, version string, more map[string]any) map[string]any {
	m := map[string]any{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
		"labels": []any{label("version", version), label("os", "linux"), label("arch", testrig.ACIArch())}}
	for key, value := range more {
		m[key] = value
	}
	return m
}

func aciName(name, version string) string {
	return name + "-" + version + "-linux-" + testrig.ACIArch() + ".aci"
}

func (w *appcWorld) publish(t *testing.T, name, version string, aci []byte) {
	t.Helper()
	w.Put(aciName(name, version), aci)
	w.Put(aciName(name, version)+".asc", w.key.Sign(t, aci))
}

func TestAppcImageWithADependencyAndASignature(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	flags := []string{"--appc_simple_discovery_uri_prefix=" + w.Prefix, "--appc_keyring=" + w.key.Ring(t)}
	const image = "appc:example.com/app,version=1.0.0"
	run := func(args ...string) testrig.Result {
		return b.Run(append(append([]string{"run"}, flags...), args...)...)
	}
	for _, c := range []struct {
		name, stdout string
		args         []string
	}{
		{"exec of the image", "of the app\n", []string{image}},
		{"arguments replace it", "yes /tmp 1000 10\n", []string{image, "--", "sh", "-c", "echo $FROM_IMAGE $(pwd) $(id -u) $(id -g)"}},
		{"groups of the image", "10 2000 3000\n", []string{image, "--", "id", "-G"}},
		{"groups of another user", "1000\n", []string{"--user=1000:1000", image, "--", "id", "-G"}},
		{"each backend", "of the app\n", []string{"--image_provisioner_backend=copy", image}},
		{"labels in another order", "of the app\n", []string{"appc:example.com/app,os=linux,version=1.0.0"}},
	} {
		r := run(c.args...)
		expect(t, r, 0)
		if r.Stdout != c.stdout {
			t.Errorf("%s: stdout %q, want %q", c.name, r.Stdout, c.stdout)
		}
	}
	before := len(w.Requests())
	expect(t, run(image), 0)
	if asked := w.Requests()[before:]; len(asked) > 0 {
		t.Errorf("the second run asked for %q", asked)
	}
	expect(t, b.Run("check"), 0)
	if names := recorded(t, b); len(names) != 2 {
		t.Errorf("recorded are %q", names)
	}
	expect(t, b.Run("prune"), 0)
	if names := recorded(t, b); len(names) > 0 {
		t.Errorf("after a prune recorded are %q", names)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestAppcImagesAreRepaired(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	prefix := "--appc_simple_discovery_uri_prefix=" + w.Prefix
	const image = "appc:example.com/app,version=1.0.0"
	expect(t, b.Run("pull", prefix, image), 0)
	flip(t, b, "etc/app")
	expect(t, b.Run("check"), 1)
	expect(t, b.Run("repair", prefix), 0)
	expect(t, b.Run("check"), 0)
	expect(t, b.Run("run", prefix, image), 0)
	expect(t, b.Run("rmi", image), 0)
}

func TestAppcImagesThatAreRefused(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	ring := "--appc_keyring=" + w.key.Ring(t)
	prefix := "--appc_simple_discovery_uri_prefix=" + w.Prefix
	circle := func(name, other string) {
		w.publish(t, name, "latest", testrig.ACI(t, map[string]any{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name,
			"dependencies": []any{map[string]any{"imageName": other}}}, testrig.ACIDir("rootfs")))
	}
	circle("example.com/hen", "example.com/egg")
	circle("example.com/egg", "example.com/hen")
	other := testrig.NewPGPKey(t)
	aci := testrig.ACI(t, w.manifest("example.com/forged", "1", nil), testrig.ACIDir("rootfs"))
	w.Put(aciName("example.com/forged", "1"), aci)
	w.Put(aciName("example.com/forged", "1")+".asc", other.Sign(t, aci))
	w.Put(aciName("example.com/unsigned", "1"), testrig.ACI(t, w.manifest("example.com/unsigned", "1", nil), testrig.ACIDir("rootfs")))
	id := "sha512-" + strings.Repeat("0", 128)
	for _, c := range []struct {
		image string
		says  []string
	}{
		{"appc:example.com/forged,version=1", []string{"access denied", "--appc_keyring"}},
		{"appc:example.com/unsigned,version=1", []string{"access denied", "no signature", ".aci.asc"}},
		{"appc:example.com/app,version=1.0.0@" + id, []string{"image id", "not " + id}},
		{"appc:example.com/hen", []string{"example.com/egg", "depends on itself"}},
		{"appc:example.com/missing", []string{"example.com/missing", "not found", "404"}},
		{"appc:Example.com/app", []string{"lower case"}},
	} {
		b := testrig.Berth(t)
		expect(t, b.Run("run", ring, prefix, c.image), 125, c.says...)
		if left := append(leftBy(t, b), recorded(t, b)...); len(left) > 0 {
			t.Errorf("%s: left behind: %q", c.image, left)
		}
	}
}

// seed is the image that Mesos's example of a ContainerInfo has.
const seed = `{"type": "MESOS", "mesos": {"image": {"type": "APPC", "appc": {"name": "acme.biz/appc/ubuntu1510",
	"labels": {"labels": [{"key": "version", "value": "0.0.1"}]}%s}}}}`

// The places are those of the example, too: acme.biz/appc/ubuntu1510-0.0.1-linux-amd64.aci.
func TestAppcImagesOfADirectoryByContainerInfo(t *testing.T) {
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	w := &appcWorld{}
	const name, version = "acme.biz/appc/ubuntu1510", "0.0.1"
	aci := testrig.ACI(t, w.manifest(name, version, nil), testrig.BusyboxRootfs(t)...)
	for place, content := range map[string][]byte{
		aciName(name, version): testrig.Compress(t, "gzip", aci),
		aciName(name, "0.0.2"): testrig.ACI(t, w.manifest(name, "0.0.2", nil), testrig.ACIDir("rootfs")),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(place)), 0o755), os.WriteFile(filepath.Join(dir, place), content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	id := appc.IDOf(aci).String()
	wrong := "sha512-" + strings.Repeat("0", 128)
	file := filepath.Join(dir, "info.json")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(seed, "")), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{dir + "/", "file://" + dir + "/"} {
		b := testrig.Berth(t)
		run := func(info string) testrig.Result {
			return b.Run("run", "--appc_simple_discovery_uri_prefix="+prefix, "--container_info="+info, "--", "/bin/echo", "it runs")
		}
		for _, info := range []string{file, fmt.Sprintf(seed, `, "id": "`+id+`"`)} {
			r := run(info)
			expect(t, r, 0)
			if r.Stdout != "it runs\n" {
				t.Errorf("%s: stdout %q", prefix, r.Stdout)
			}
		}
		want := []string{"appc:" + name + ",version=" + version, "appc:" + name + ",version=" + version + "@" + id}
		if got := recorded(t, b); !slices.Equal(got, want) {
			t.Errorf("recorded are %q, want %q", got, want)
		}
		expect(t, run(fmt.Sprintf(seed, `, "id": "`+wrong+`"`)), 125, "image id", id, "not "+wrong)
		expect(t, run(strings.Replace(fmt.Sprintf(seed, ""), version, "0.0.3", 1)), 125, "not found", "0.0.3")
		expect(t, run(strings.Replace(fmt.Sprintf(seed, ""), version, "0.0.2", 1)), 127) // the other version has no echo
	}
}

func TestAppcImagesArePruned(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	prefix := "--appc_simple_discovery_uri_prefix=" + w.Prefix
	const app, base = "appc:example.com/app,version=1.0.0", "appc:example.com/base,version=2.1"
	expect(t, b.Run("pull", prefix, app), 0)
	expect(t, b.Run("pull", prefix, base), 0)
	if got := recorded(t, b); !slices.Equal(got, []string{app, base}) {
		t.Errorf("recorded are %q", got)
	}
	p := b.Start("run", "--name", "held", base, "--", "sh", "-c", "echo ready; exec busybox sleep 1000")
	await(t, func() bool { out, _ := p.Output(); return strings.Contains(out, "ready") })
	dry := b.Run("prune", "--dry-run")
	expect(t, dry, 0)
	if !strings.Contains(dry.Stdout, app) || strings.Contains(dry.Stdout, base) {
		t.Errorf("a dry run would remove:\n%s", dry.Stdout)
	}
	expect(t, b.Run("prune"), 0)
	if got := recorded(t, b); !slices.Equal(got, []string{base}) {
		t.Errorf("while a container has %s, recorded are %q", base, got)
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	expect(t, b.Run("prune", "--exclude", base), 0)
	if got := recorded(t, b); !slices.Equal(got, []string{base}) {
		t.Errorf("after a prune without %s, recorded are %q", base, got)
	}
	before := len(w.Requests())
	expect(t, b.Run("run", prefix, base, "--", "true"), 0)
	if asked := w.Requests()[before:]; len(asked) > 0 {
		t.Errorf("what was excluded is asked for again: %q", asked)
	}
	expect(t, b.Run("rmi", base), 0)
	if left := append(leftBy(t, b), recorded(t, b)...); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A download that kill -9 ended leaves nothing after the next command, and no image that is
// not whole.
func TestAPullOfAnAppcImageThatIsKilled(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	prefix := "--appc_simple_discovery_uri_prefix=" + w.Prefix
	const image = "appc:example.com/app,version=1.0.0"
	arrived, release := make(chan struct{}), make(chan struct{})
	w.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/base-") {
			return false
		}
		_, _ = rw.Write(make([]byte, 64<<10))
		rw.(http.Flusher).Flush()
		close(arrived)
		<-release
		return true
	})
	p := b.Start("pull", prefix, image)
	<-arrived
	p.Signal(syscall.SIGKILL)
	p.Wait()
	w.Intercept(nil)
	close(release)
	expect(t, b.Run("prune"), 0)
	if left := append(leftBy(t, b), recorded(t, b)...); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	expect(t, b.Run("run", prefix, image), 0)
}

// What is saved is an image as the others know them, under no name.
func TestAppcImagesAreSaved(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	const image = "appc:example.com/app,version=1.0.0"
	expect(t, b.Run("pull", "--appc_simple_discovery_uri_prefix="+w.Prefix, image), 0)
	file := filepath.Join(testrig.TempDir(t), "saved")
	expect(t, b.Run("save", "--format", "oci-archive", "-o", file, image), 0)
	r := testrig.Berth(t).Run("run", "oci-archive:"+file)
	expect(t, r, 0)
	if r.Stdout != "of the app\n" {
		t.Errorf("stdout %q", r.Stdout)
	}
}

// The records of Appc images may lie elsewhere, also on another file system; their layers
// are with those of the others.
func TestAppcStoreDir(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	b := testrig.Berth(t)
	elsewhere := testrig.LoopFS(t, "ext4", 16)
	flags := []string{"--appc_store_dir=" + elsewhere, "--appc_simple_discovery_uri_prefix=" + w.Prefix}
	const image = "appc:example.com/app,version=1.0.0"
	expect(t, b.Run(append([]string{"run"}, append(flags, image)...)...), 0)
	found, err := os.ReadDir(filepath.Join(elsewhere, "images"))
	if err != nil || len(found) != 1 || !strings.HasSuffix(found[0].Name(), ".json") {
		t.Errorf("the records are %v, %v", found, err)
	}
	before := len(w.Requests())
	expect(t, b.Run(append([]string{"run"}, append(flags, image)...)...), 0)
	if asked := w.Requests()[before:]; len(asked) > 0 {
		t.Errorf("asked for %q again", asked)
	}
	expect(t, b.Run("rmi", flags[0], image), 0)
}

// What the specification calls meta discovery: by https, from a page at the image's name.
func TestAppcImageByMetaDiscovery(t *testing.T) {
	testrig.RequireRoot(t)
	w := newAppcWorld(t)
	server := httptest.NewUnstartedServer(nil)
	host := "127.77." + strconv.Itoa(os.Getpid()>>8&255) + "." + strconv.Itoa(os.Getpid()&127+1)
	listener, err := net.Listen("tcp", host+":443") // names of images have no port
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	cert, key := certificate(t, host)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	name := host + "/team/app"
	aci := testrig.ACI(t, w.manifest(name, "1", nil), testrig.BusyboxRootfs(t)...)
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch place := "/files/linux-" + testrig.ACIArch() + "/" + name + "/1.aci"; {
		case r.URL.Path == "/team" && r.URL.Query().Get("ac-discovery") == "1":
			fmt.Fprintf(rw, `<html><head><meta name="ac-discovery" content="%s/team https://%s/files/{os}-{arch}/{name}/{version}.{ext}"></head></html>`, host, host)
		case r.URL.Path == place:
			_, _ = rw.Write(aci)
		case r.URL.Path == place+".asc":
			_, _ = rw.Write(w.key.Sign(t, aci))
		default:
			http.NotFound(rw, r)
		}
	})
	server.StartTLS()
	defer server.Close()
	b := testrig.Berth(t)
	trusted := filepath.Join(testrig.TempDir(t), "roots.pem")
	if err := os.WriteFile(trusted, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	flags := []string{"run", "--appc_simple_discovery_uri_prefix=", "--appc_keyring=" + w.key.Ring(t)}
	image := "appc:" + name + ",version=1"
	expect(t, b.Run(append(flags, image, "--", "true")...), 125, "certificate")
	b.Env = append(b.Env, "SSL_CERT_FILE="+trusted)
	r := b.Run(append(flags, image, "--", "/bin/echo", "found")...)
	expect(t, r, 0)
	if r.Stdout != "found\n" {
		t.Errorf("stdout %q", r.Stdout)
	}
	expect(t, b.Run(append(flags, "appc:"+host+"/other,version=1", "--", "true")...), 125, "not found", "no page says where it is")
}

// certificate makes one for an address, which is its own authority.
func certificate(t *testing.T, host string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
