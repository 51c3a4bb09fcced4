//go:build linux

package e2e

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// get asks an older endpoint.
func (o *operator) get(path string) (*http.Response, string) {
	o.Helper()
	return o.do("GET", path)
}

func (o *operator) do(method, path string) (*http.Response, string) {
	o.Helper()
	request, err := http.NewRequestWithContext(o.Context(), method, "http://agent"+path, nil)
	if err != nil {
		o.Fatal(err)
	}
	answer, err := o.http.Do(request)
	if err != nil {
		o.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		o.Fatal(err)
	}
	return answer, string(body)
}

// getJSON asks for a value.
func (o *operator) getJSON(path string, value any) {
	o.Helper()
	answer, body := o.get(path)
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/json" {
		o.Fatalf("%s: %s %v %q", path, answer.Status, answer.Header, body)
	}
	if err := json.Unmarshal([]byte(body), value); err != nil {
		o.Fatalf("%s: %v in %.300q", path, err, body)
	}
}

var olderEndpoints = []string{"/health", "/version", "/flags", "/containers", "/monitor/statistics", "/monitor/statistics.json", "/metrics/snapshot",
	"/metrics", "/files/browse", "/files/browse.json", "/files/read", "/files/read.json", "/files/download"}

func TestOlderEndpoints(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	secrets := filepath.Join(testrig.TempDir(t), "credentials")
	if err := os.WriteFile(secrets, []byte(`{"credentials": [{"principal": "ops", "secret": "hushhush"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := startAgent(t, b, `--docker_config={"auths": {"registry.example": {"auth": "dXNlcjpodXNoaHVzaA=="}}}`,
		`--default_container_info={"type": "MESOS", "volumes": [{"mode": "RW", "container_path": "hushhush", "source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": "SELF", "path": "x"}}}]}`,
		"--http_credentials="+secrets, "--http_address=127.0.0.1:"+freePort(t))
	o := newOperator(t, b, true)
	web := launchOf(rootID("web"), image, script(`cd $MESOS_SANDBOX; printf 'a\000\377z' >bytes; echo x >"$(printf 'a"b\nc;d')"; mkdir dir; touch dir/two dir/one; ln -s /etc/passwd out
		while :; do echo line >>growing; sleep 0.01; done`))
	web.LaunchContainer.Limits["mem"].Value = proto.Float64(64)
	o.expect(web, 200, "")
	o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: childID("web", "sub"), Command: script("sleep 1000")}}, 200, "")
	o.expect(launchOf(rootID("gone"), image, script("exit 3")), 200, "")
	o.answer(waitOf(rootID("gone")))
	sandbox := filepath.Join(b.WorkDir, "containers", "web")
	await(t, func() bool {
		answer, _ := o.get("/files/read?path=" + url.QueryEscape(sandbox+"/growing"))
		return answer.StatusCode == 200
	})

	t.Run("who asks otherwise", func(t *testing.T) {
		for _, path := range olderEndpoints {
			for _, method := range []string{"POST", "PUT", "DELETE"} {
				if answer, body := o.do(method, path); answer.StatusCode != 405 || !strings.Contains(answer.Header.Get("Allow"), "GET") {
					t.Errorf("%s %s: %s %q %q", method, path, answer.Status, answer.Header.Get("Allow"), body)
				}
			}
		}
		if answer, _ := o.get("/no/such/path"); answer.StatusCode != 404 {
			t.Errorf("a path that there is not: %s", answer.Status)
		}
	})

	t.Run("the agent", func(t *testing.T) {
		if answer, body := o.get("/health"); answer.StatusCode != 200 || body != "" {
			t.Errorf("/health: %s %q", answer.Status, body)
		}
		var version struct{ Version string }
		if o.getJSON("/version", &version); version.Version == "" {
			t.Error("/version has none")
		}
		var flags struct{ Flags map[string]string }
		o.getJSON("/flags", &flags)
		if flags.Flags["work_dir"] != b.WorkDir || flags.Flags["docker_config"] != "(redacted)" || flags.Flags["http_credentials"] != secrets {
			t.Errorf("/flags: %v", flags.Flags)
		}
		code, answer := o.call(&v1.Call{Type: v1.Call_GET_FLAGS.Enum()})
		_, older := o.get("/flags")
		_, log := agent.Output()
		for where, text := range map[string]string{"GET_FLAGS": string(answer), "/flags": older, "the log": log} {
			if code != 200 || strings.Contains(text, "hushhush") || strings.Contains(text, "dXNlcjpodXNoaHVzaA") {
				t.Errorf("%s has a secret: %d %.3000q", where, code, text)
			}
		}
	})

	t.Run("containers", func(t *testing.T) {
		type one struct {
			ID          string `json:"container_id"`
			Source      string
			FrameworkID *string `json:"framework_id"`
			Statistics  struct {
				MemLimitBytes uint64  `json:"mem_limit_bytes"`
				Timestamp     float64 `json:"timestamp"`
			}
			Status struct {
				ExecutorPid int                    `json:"executor_pid"`
				ContainerID struct{ Value string } `json:"container_id"`
			}
		}
		var all, same, statistics, none []one
		o.getJSON("/containers", &all)
		if len(all) != 2 || all[0].ID != "web" || all[1].ID != "web.sub" || all[0].Statistics.MemLimitBytes != 64<<20 || all[0].Status.ExecutorPid == 0 ||
			all[0].Status.ContainerID.Value != "web" || all[0].FrameworkID == nil {
			t.Errorf("/containers: %+v", all)
		}
		if o.getJSON("/containers?container_id=web", &same); len(same) != 1 || same[0].ID != "web" {
			t.Errorf("/containers?container_id=web: %+v", same)
		}
		if o.getJSON("/containers?framework_id=f&executor_id=e", &none); none == nil || len(none) != 0 {
			t.Errorf("those of a framework: %+v", none)
		}
		if answer, body := o.get("/containers?framework_id=f&container_id=web"); answer.StatusCode != 400 {
			t.Errorf("both: %s %q", answer.Status, body)
		}
		for _, path := range []string{"/monitor/statistics", "/monitor/statistics.json"} {
			if o.getJSON(path, &statistics); len(statistics) != 2 || statistics[0].Source != "web" || statistics[0].Statistics.Timestamp == 0 {
				t.Errorf("%s: %+v", path, statistics)
			}
		}
	})

	t.Run("files", func(t *testing.T) {
		at := func(endpoint, name, more string) string {
			return "/files/" + endpoint + "?path=" + url.QueryEscape(filepath.Join(sandbox, name)) + more
		}
		var files []struct{ Path, Mode, UID string }
		o.getJSON(at("browse", "dir", ""), &files)
		if len(files) != 2 || files[0].Path != sandbox+"/dir/one" || files[0].Mode != "-rw-r--r--" || files[0].UID != "root" {
			t.Errorf("browse: %+v", files)
		}
		var part struct {
			Data   string
			Offset uint64
		}
		if o.getJSON(at("read", "bytes", "&offset=-1"), &part); part.Offset != 4 || part.Data != "" {
			t.Errorf("where it ends: %+v", part)
		}
		if o.getJSON(at("read", "bytes", "&offset=3&length=9"), &part); part.Data != "z" || part.Offset != 3 {
			t.Errorf("its end: %+v", part)
		}
		for path, code := range map[string]int{
			"/files/browse": 400, "/files/read": 400, "/files/download": 400, at("browse", "none", ""): 404, at("read", "none", ""): 404, at("download", "none", ""): 404,
			at("read", "dir", ""): 400, at("download", "dir", ""): 400, at("read", "bytes", "&offset=-2"): 400, at("read", "bytes", "&offset=x"): 400,
			at("read", "bytes", "&length=-9"): 400, at("read", "out", ""): 400, at("download", "out", ""): 400, "/files/download?path=/etc/passwd": 404,
			"/files/read?path=" + url.QueryEscape(sandbox+"/../web/bytes"): 400,
		} {
			if answer, body := o.get(path); answer.StatusCode != code || strings.Contains(body, "root:") || strings.Count(body, "\n") != 1 {
				t.Errorf("%s: %s %q; want %d and one line", path, answer.Status, body, code)
			}
		}
		answer, body := o.get(at("download", "bytes", ""))
		if answer.StatusCode != 200 || body != "a\x00\xffz" || answer.Header.Get("Content-Type") != "application/octet-stream" || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("download: %s %v %q", answer.Status, answer.Header, body)
		}
		// A name may have whatever a container likes; a header may not.
		const name = "a\"b\nc;d"
		answer, body = o.get(at("download", name, ""))
		kind, params, err := mime.ParseMediaType(answer.Header.Get("Content-Disposition"))
		if body != "x\n" || err != nil || kind != "attachment" || params["filename"] != name {
			t.Errorf("a hostile name: %q %q %q %v", body, answer.Header.Get("Content-Disposition"), params, err)
		}
		// Of a file that grows there is as much as there was when it was asked for.
		answer, body = o.get(at("download", "growing", ""))
		if length := answer.Header.Get("Content-Length"); length != strconv.Itoa(len(body)) || len(body)%len("line\n") != 0 {
			t.Errorf("a file that grows: %d bytes, announced were %s", len(body), length)
		}
	})

	t.Run("metrics", func(t *testing.T) {
		var snapshot map[string]float64
		if o.getJSON("/metrics/snapshot", &snapshot); snapshot["agent/containers"] != 3 {
			t.Errorf("/metrics/snapshot: %v", snapshot)
		}
		answer, text := o.get("/metrics")
		if answer.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("/metrics: %v", answer.Header)
		}
		names := checkPrometheus(t, text)
		if names["berth_agent_containers"] != "gauge" || names["berth_containerizer_mesos_provisioner_remove_container_errors"] != "counter" || len(names) < len(snapshot) {
			t.Errorf("/metrics: %v", names)
		}
	})

	o.expect(killOf(rootID("web"), nil), 200, "")
	for _, id := range []string{"web", "gone"} {
		o.answer(waitOf(rootID(id)))
		o.expect(removeOf(rootID(id)), 200, "")
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}

// checkPrometheus reads the text format, version 0.0.4: each sample comes after the line with
// its type, and no name comes twice.
func checkPrometheus(t *testing.T, text string) (kinds map[string]string) {
	t.Helper()
	kinds = make(map[string]string)
	typeLine := regexp.MustCompile(`^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$`)
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if _, twice := kinds[m[1]]; twice {
				t.Errorf("%s is there twice", m[1])
			}
			name, kinds[m[1]] = m[1], m[2]
			continue
		}
		sample, value, _ := strings.Cut(line, " ")
		if _, err := strconv.ParseFloat(value, 64); err != nil || sample != name {
			t.Errorf("the line %q after the type of %q: %v", line, name, err)
		}
	}
	return kinds
}
