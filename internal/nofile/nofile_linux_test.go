// Not in the package: that would import syscall.
package nofile_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"berth/internal/nofile"
)

func TestInherited(t *testing.T) {
	if os.Getenv("NOFILE_SAY") != "" {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%d %d %v\n", nofile.Inherited.Soft, nofile.Inherited.Hard, now.Cur > nofile.Inherited.Soft)
		os.Exit(0)
	}
	cmd := exec.Command("sh", "-c", "ulimit -Sn 500; ulimit -Hn 600; exec "+os.Args[0]+" -test.run=TestInherited")
	cmd.Env = append(os.Environ(), "NOFILE_SAY=1")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "500 600 true\n" {
		t.Errorf("it says %q, %v; want what the shell has set, and that Go has raised it", out, err)
	}
}
