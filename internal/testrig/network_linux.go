package testrig

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ownNetwork marks a process whose network namespace is its test's own.
const ownNetwork = "BERTH_TEST_OWN_NETWORK"

// OwnNetwork runs the calling test, a whole one, again in a process with a network
// namespace of its own, whose loopback device is up: whatever it does to interfaces and to
// the firewall, it does not do to this machine. It reports whether this is that process;
// in the other one the test is over.
func OwnNetwork(tb testing.TB) bool {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "ip", "iptables", "nsenter")
	if os.Getenv(ownNetwork) != "" {
		tool{}.run(tb, "ip", "link", "set", "lo", "up")
		return true
	}
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^"+tb.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), ownNetwork+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	done, err := startTied(cmd)
	if err == nil {
		err = <-done
	}
	if err != nil {
		tb.Fatalf("in a network namespace of its own: %v\n%s", err, out.String())
	}
	if testing.Verbose() {
		tb.Log(out.String())
	}
	return false
}

// RequireCNIPlugins skips the test where the standard plugins are not installed.
func RequireCNIPlugins(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		missing(tb, "needs the standard CNI plugins in /usr/lib/cni: run \"script/packages test\"")
	}
}
