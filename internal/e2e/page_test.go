//go:build linux

package e2e

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

var update = flag.Bool("update", false, "take the picture of the page for README.md anew")

// freePort is one of loopback that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// A person looks at the page in a browser; each figure is what the API says.
func TestThePageInABrowser(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "shop/app:1")
	b := testrig.Berth(t)
	credentials := filepath.Join(testrig.TempDir(t), "credentials")
	if err := os.WriteFile(credentials, []byte(`{"credentials": [{"principal": "ops", "secret": "s"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + freePort(t)
	agent := startAgent(t, b, "--http_address="+address, "--http_credentials="+credentials, `--acls={"permissive": true}`)
	o := newOperator(t, b, true)
	web := launchOf(rootID("web"), image, script("echo '<b>hello</b> from web'; echo trouble >&2; echo x >$MESOS_SANDBOX/file.txt; mkdir $MESOS_SANDBOX/data; while :; do :; done"))
	web.LaunchContainer.Limits["cpus"].Value = proto.Float64(0.2)
	o.expect(web, 200, "")
	o.expect(&v1.Call{Type: v1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &v1.Call_LaunchNestedContainer{ContainerId: childID("web", "cache"), Command: script("sleep 1000")}}, 200, "")
	o.expect(launchOf(rootID("job"), image, script("exit 3")), 200, "")
	o.answer(waitOf(rootID("job")))

	page := testrig.Browse(t, "http://ops:s@"+address+"/")
	page.Await(`document.querySelectorAll("#tree tr").length === 3`)
	for name, expression := range map[string]string{
		"the nested one is below its parent": `[...document.querySelectorAll("#tree button")].map(b => b.dataset.id).join() === "job,web,web.cache"`,
		"how one has ended":                  `document.querySelector("#tree tr").innerText.includes("ENDED: exit 3")`,
		"one runs":                           `document.querySelectorAll("#tree tr")[1].innerText.includes("RUNNING")`,
		"its command":                        `document.querySelectorAll("#tree tr")[1].innerText.includes("from web")`,
		"the image":                          `document.querySelector("#image-list").innerText.includes("shop/app:1")`,
		"what works":                         `document.querySelector("#ability-list").innerText.includes("overlay")`,
		"the version":                        `document.querySelector("#version").innerText.startsWith("version ")`,
		"every field has a name":             `[...document.querySelectorAll("button, a")].every(e => (e.getAttribute("aria-label") || e.innerText).trim() !== "")`,
	} {
		t.Log(name)
		page.Await(expression)
	}
	// By the keyboard: the first container is a few tabs from the top.
	page.Eval(`document.querySelectorAll("#tree button")[0].focus()`)
	page.Press("Tab", 9)
	page.Press("Enter", 13)
	page.Await(`document.querySelector("#detail-title").innerText === "Container web" && document.activeElement.id === "detail-title"`)
	page.Await(`document.querySelector("#output").innerText.includes("<b>hello</b> from web") && document.querySelector("#output .stderr").innerText.includes("trouble")`)
	if got := page.Eval(`document.querySelectorAll("#output b").length`); got != "0" {
		t.Errorf("what a container writes has become %s elements of the page", got)
	}
	page.Await(`["stdout", "file.txt", "data/"].every(name => document.querySelector("#files").innerText.includes(name))`)
	page.Await(`document.querySelector("#cpu-chart polyline").getAttribute("points").split(" ").length > 1`)

	// The figures are those of the API.
	cpu, err := strconv.ParseFloat(page.Eval(`document.querySelector("#cpu-now").value`), 64)
	if err != nil || cpu < 0.1 || cpu > 0.4 {
		t.Errorf("a busy loop with a limit of 0.2 CPUs uses %v, %v", cpu, err)
	}
	found := o.answer(&v1.Call{Type: v1.Call_GET_CONTAINERS.Enum(), GetContainers: &v1.Call_GetContainers{ShowStandalone: proto.Bool(true)}}).GetGetContainers().GetContainers()
	shown := page.Eval(`last(known.get("web").memory)`)
	if want := float64(found[0].GetResourceStatistics().GetMemTotalBytes()); !near(t, shown, want) {
		t.Errorf("memory is shown as %s bytes; the API says %v", shown, want)
	}
	// What happens is seen without asking again.
	o.expect(launchOf(rootID("more"), image, script("sleep 1000")), 200, "")
	page.Await(`document.querySelector("#event-list").textContent.includes("container.launched  more")`)
	page.Await(`document.querySelector("#tree").innerText.includes("more")`)
	if *update {
		page.Eval(`scrollTo(0, 0)`)
		page.Screenshot("../../docs/page.png")
	}
	for _, id := range []string{"web", "more"} {
		o.expect(killOf(rootID(id), nil), 200, "")
	}
	page.Await(`document.querySelector("#event-list").textContent.includes("container.ended  web")`)
	for _, id := range []string{"web", "more", "job"} {
		o.answer(waitOf(rootID(id)))
		o.expect(removeOf(rootID(id)), 200, "")
	}
	page.Await(`!document.querySelector("#no-containers").hidden`)
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	page.Await(`document.querySelector("#health").innerText.includes("does not answer")`)
	wantNoContainers(t, b)
}

// near allows for what has happened between two looks.
func near(t *testing.T, text string, want float64) bool {
	t.Helper()
	got, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return err == nil && got > want/2 && got < want*2
}
