//go:build linux

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// At SIGHUP what can change does, what cannot is named, and what is wrong changes nothing.
func TestTheAgentReadsItsConfigurationAgain(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	address := "127.0.0.1:" + freePort(t)
	acls, credentials, gc := filepath.Join(dir, "acls"), filepath.Join(dir, "credentials"), filepath.Join(dir, "gc")
	files := "http_credentials = '" + credentials + "'\nacls = '" + acls + "'\n"
	write("acls", `{}`)
	write("credentials", `{"credentials": [{"principal": "ops", "secret": "old"}]}`)
	config := write("agent.toml", files)
	agent := startAgent(t, b, "--config="+config, "--http_address="+address)
	o := newOperator(t, b, true)
	reload := func(says string) {
		t.Helper()
		_, before := agent.Output()
		agent.Signal(syscall.SIGHUP)
		await(t, func() bool { _, log := agent.Output(); return strings.Contains(log[len(before):], says) })
	}
	flags := func(secret string) int {
		t.Helper()
		request, err := http.NewRequest("GET", "http://"+address+"/flags", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("ops", secret)
		answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	images := func() int { return len(o.answer(&v1.Call{Type: v1.Call_GET_IMAGES.Enum()}).GetGetImages().GetImages()) }
	level := func() uint32 {
		return o.answer(&v1.Call{Type: v1.Call_GET_LOGGING_LEVEL.Enum()}).GetGetLoggingLevel().GetLevel()
	}
	o.expect(launchOf(rootID("old"), image, script("true")), 200, "")
	o.answer(waitOf(rootID("old")))
	if got := flags("old"); got != 403 {
		t.Errorf("without a right: %d", got)
	}

	// The files that flags name, the flags being the same.
	write("acls", `{"permissive": true}`)
	write("credentials", `{"credentials": [{"principal": "ops", "secret": "new"}]}`)
	reload("reloaded")
	if old, now := flags("old"), flags("new"); old != 401 || now != 200 {
		t.Errorf("after the credentials have changed the old ones get %d, the new ones %d", old, now)
	}

	for name, c := range map[string]struct{ config, words string }{
		"no TOML":                   {"= 5", "agent.toml"},
		"a flag that there is not":  {"acl = '/x'", "did you mean --acls?"},
		"a value that is none":      {files + "completed_retention = 'long'", "completed_retention"},
		"a level that there is not": {files + "logging_level = 'loud'", "known are debug"},
		"a file that is not there":  {files + "image_gc_config = '/no/such/file'", "/no/such/file"},
		"an image that is none":     {files + `image_gc_config = '{"image_disk_headroom": 1, "image_disk_watch_interval": {"nanoseconds": 1}, "excluded_images": [{"type": "DOCKER", "docker": {"name": ":"}}]}'`, "excluded_images"},
		"nobody would be known":     {"acls = '" + acls + "'", "nobody could show who they are"},
	} {
		t.Run(name, func(t *testing.T) {
			write("agent.toml", c.config)
			_, before := agent.Output()
			reload("nothing has changed")
			_, log := agent.Output()
			if !strings.Contains(log[len(before):], c.words) {
				t.Errorf("it says %s; want %q", log[len(before):], c.words)
			}
		})
	}
	write("credentials", `{`)
	write("agent.toml", files+"logging_level = 'debug'")
	reload("nothing has changed")
	if flags("new") != 200 || level() != 0 {
		t.Error("a reload that failed has changed something")
	}
	write("credentials", `{"credentials": [{"principal": "ops", "secret": "new"}]}`)

	write("agent.toml", files+"logging_level = 'debug'\nisolator_dir = '/other'\ncompleted_retention = '1s'\nimage_gc_config = '"+gc+"'")
	write("gc", `{"image_disk_headroom": 1, "image_disk_watch_interval": {"nanoseconds": 10000000}}`)
	if images() != 1 {
		t.Errorf("there are %d images", images())
	}
	reload("--isolator_dir needs a restart")
	await(t, func() bool { code, _ := o.call(waitOf(rootID("old"))); return code == 404 })
	await(t, func() bool { return images() == 0 })
	if level() != 1 {
		t.Errorf("the level of the log is %d", level())
	}
	answer := o.answer(&v1.Call{Type: v1.Call_GET_FLAGS.Enum()})
	if flagOf(answer, "completed_retention") != "1s" || flagOf(answer, "isolator_dir") == "/other" {
		t.Errorf("in force are %v", answer)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	wantNoContainers(t, b)
}
