package testrig

import (
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRegistryCountsAndFails(t *testing.T) {
	reg := Registry(t)
	url := "http://" + reg.Host() + "/v2/"
	if reg.Requests() != 0 {
		t.Errorf("a new registry has had the requests %q", reg.AccessLog())
	}
	if status, _ := get(t, url); status != http.StatusOK {
		t.Errorf("GET /v2/: %d", status)
	}
	reg.Fail(http.StatusServiceUnavailable)
	if status, _ := get(t, url+"?n=1"); status != http.StatusServiceUnavailable {
		t.Errorf("GET /v2/ of a failing registry: %d", status)
	}
	reg.Fail(0)
	reg.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/lie" {
			return false
		}
		_, _ = io.WriteString(w, "lie")
		return true
	})
	if _, body := get(t, url+"lie"); body != "lie" {
		t.Errorf("an intercepted request was answered with %q", body)
	}
	if status, _ := get(t, url); status != http.StatusOK {
		t.Errorf("GET /v2/ of a registry that is well again: %d", status)
	}
	want := []string{"GET /v2/", "GET /v2/?n=1", "GET /v2/lie", "GET /v2/"}
	if log := reg.AccessLog(); !slices.Equal(log, want) || reg.Requests() != len(want) {
		t.Errorf("%d requests %q, want %q", reg.Requests(), log, want)
	}
	if status, _ := get(t, "http://"+reg.Direct()+"/v2/"); status != http.StatusOK || reg.Requests() != len(want) {
		t.Errorf("past the proxy: status %d, %d requests", status, reg.Requests())
	}
}

func TestRegistryEndsWithItsTest(t *testing.T) {
	RequireTools(t, "docker-registry")
	tmp := TempDir(t)
	t.Setenv("TMPDIR", tmp)
	NoLeaks(t, Scope{Processes: []string{tmp}, Files: []string{tmp}, Only: []string{tmp}})
	var addr string
	r := record(t, func(tb testing.TB) {
		addr = Registry(tb).Direct()
		tb.Fatal("the test fails here")
	})
	if len(r.errors) != 1 {
		t.Errorf("errors: %q", r.errors)
	}
	if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
		resp.Body.Close()
		t.Error("the registry still answers")
	}
}

func TestPushTakesOtherFormats(t *testing.T) {
	reg := Registry(t)
	ref := BusyboxImage(t, reg, "plain:one")
	if want := reg.Host() + "/plain:one"; ref != want {
		t.Errorf("the reference is %s, want %s", ref, want)
	}
	archive := filepath.Join(TempDir(t), "archive.tar")
	Skopeo(t, "copy", "--quiet", "--src-tls-verify=false", "docker://"+ref, "docker-archive:"+archive+":plain:one")
	if reg.Requests() == 0 {
		t.Error("skopeo's requests to Host were not counted")
	}
	for flag, want := range map[string]string{
		"--format=v2s2": "application/vnd.docker.distribution.manifest.v2+json",
		"--format=oci":  "application/vnd.oci.image.manifest.v1+json",
	} {
		ref := reg.Push(t, "docker-archive:"+archive, "other", flag)
		if raw := Skopeo(t, "inspect", "--raw", "--tls-verify=false", "docker://"+ref); !strings.Contains(raw, want) {
			t.Errorf("%s: the manifest is not %s: %s", flag, want, raw)
		}
	}
	zstd := reg.Push(t, "docker-archive:"+archive, "zstd", "--format=oci", "--dest-compress-format=zstd")
	if raw := Skopeo(t, "inspect", "--raw", "--tls-verify=false", "docker://"+zstd); !strings.Contains(raw, "tar+zstd") {
		t.Errorf("no zstd layer: %s", raw)
	}
}
