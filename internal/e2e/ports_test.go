//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// A container on the host's network that listens where it was not allowed to is ended, with
// enforcement; and is only told of without. On a network of its own it may.
func TestAForbiddenListenerIsKilled(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	flags := []string{"run", onNetworks + ",network/ports", "--container_ports_watch_interval=50ms"}
	args := func(more ...string) []string { return append(append([]string{}, flags...), more...) }

	r := b.Run(args("--name", "listener", "--enforce_container_ports", image, "--", "httpd", "-f", "-p", "8088")...)
	expect(t, r, 137, "Container listener is listening on unallocated port(s): [8088-8088]")
	for n, c := range [][]string{
		{"--enforce_container_ports", "--container_ports_isolated_range=[31000-32000]"},
		{"--enforce_container_ports", "--check_agent_port_range_only"},
		{"--enforce_container_ports", "--network", "bridge", "-p", "8088:8088"},
		{},
	} {
		p := b.Start(append(args("--name", fmt.Sprintf("allowed%d", n)), append(c, image, "--", "httpd", "-f", "-p", "8088", "-h", "/bin")...)...)
		until(t, func() bool {
			answer, err := http.Get("http://127.0.0.1:8088/busybox")
			if err == nil {
				answer.Body.Close()
			}
			return err == nil
		})
		time.Sleep(200 * time.Millisecond) // several looks
		p.Signal(syscall.SIGTERM)
		if r := p.Wait(); r.ExitCode != 143 {
			t.Errorf("%q: exit code %d: %s", c, r.ExitCode, r.Stderr)
		} else if len(c) == 0 {
			expect(t, r, 143, "warning: Container allowed3 is listening on unallocated port(s): [8088-8088]")
		}
	}
	for _, bad := range [][]string{{"--container_ports_isolated_range=80"}, {"--container_ports_isolated_range=[1-2]", "--check_agent_port_range_only"}, {"--container_ports_watch_interval=0s"}} {
		expect(t, b.Run(args(append(bad, image)...)...), 125, bad[0][:len("--container_ports_")])
	}
}
