//go:build linux

package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// What a container may do of which nothing is said, seen from inside, and how that changes.
func TestWhatAContainerMayDo(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	b := testrig.Berth(t)
	profile := filepath.Join(testrig.TempDir(t), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const status = "echo $(grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2)"
	// A program that is root's, executed by another user.
	const setUser = `printf 'root::0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n' > /etc/passwd
mkdir /bits && cp /bin/busybox /bits/su && chmod 4755 /bits/su
su app -c "id -u; /bits/su -c 'id -u' 2>/dev/null || echo no"`
	for _, c := range []struct {
		name   string
		args   []string
		script string
		want   string
	}{
		{"by default", nil, status, "00000000a80425fb 00000000a80425fb 0 2"},
		{"as another user", []string{"-u", "1000"}, status, "0000000000000000 00000000a80425fb 0 2"},
		{"no capabilities", []string{"--cap-drop=ALL"}, status, "0000000000000000 0000000000000000 0 2"},
		{"one", []string{"--cap-drop", "all", "--cap-add", "cap_net_raw"}, status, "0000000000002000 0000000000002000 0 2"},
		{"no new privileges", []string{"--security-opt", "no-new-privileges"}, status, "00000000a80425fb 00000000a80425fb 1 2"},
		{"no filter", []string{"--security-opt", "seccomp=unconfined"}, status, "00000000a80425fb 00000000a80425fb 0 0"},
		{"no mounts", nil, "mount -t tmpfs x /mnt 2>&1 || echo no", "mount: permission denied (are you root?)\nno"},
		{"no user namespaces", []string{"-u", "1000"}, "unshare -U true 2>&1 || echo no", "unshare: unshare(0x10000000): Operation not permitted\nno"},
		{"mounts for an administrator", []string{"--cap-add", "SYS_ADMIN"}, "mount -t tmpfs x /mnt && echo yes", "yes"},
		{"a profile", []string{"--security-opt", "seccomp=" + profile}, "mkdir /x 2>&1 || echo no", "mkdir: can't create directory '/x': No space left on device\nno"},
		{"set-user-id programs", nil, setUser, "1000\n0"},
		{"set-user-id programs without new privileges", []string{"--security-opt", "no-new-privileges"}, setUser, "1000\nno"},
		{"owners and users change", nil, "touch /f && chown 7:7 /f && chroot / id -u", "0"},
	} {
		r := b.Run(append(append([]string{"run"}, c.args...), image, "--", "sh", "-c", c.script)...)
		if expect(t, r, 0); strings.TrimSpace(r.Stdout) != c.want {
			t.Errorf("%s: %q, want %q", c.name, r.Stdout, c.want)
		}
	}
	for words, args := range map[string][]string{
		"NET_RAWW":                 {"--cap-add", "NET_RAWW"},
		"is added and dropped":     {"--cap-add", "CHOWN", "--cap-drop", "CHOWN"},
		"nosuch.json":              {"--security-opt", "seccomp=/nosuch.json"},
		"no JSON of a profile":     {"--security-opt", "seccomp=/etc/passwd"},
		"known are":                {"--security-opt", "selinux=please"},
		"--bounding_capabilities":  {"--bounding_capabilities", `{"capabilities": ["CHOWN"]}`, "--cap-add", "NET_RAW"},
		"--effective_capabilities": {"--bounding_capabilities", `{"capabilities": ["CHOWN"]}`, "--effective_capabilities", `{"capabilities": ["KILL"]}`},
		"NET_RAWWW":                {"--bounding_capabilities", `{"capabilities": ["CHOWN", "NET_RAWWW"]}`},
		"NET_RAWWWW":               {"--container_info", `{"type": "MESOS", "linux_info": {"effective_capabilities": {"capabilities": ["NET_RAWWWW"]}}}`},
		"--seccomp_config_dir":     {"--seccomp_profile_name", "x"},
	} {
		r := b.Run(append(append([]string{"run"}, args...), image, "--", "true")...)
		expect(t, r, 125, words)
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The filter is the last thing before the execution: a profile that allows that and the end
// alone, and kills for all else, stops neither berth-init nor what it has to say.
func TestTheLeastProfileOfSystemCalls(t *testing.T) {
	testrig.RequireRoot(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the program of this test is one of amd64")
	}
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	profile, program := filepath.Join(dir, "least.json"), filepath.Join(dir, "exit")
	if err := os.WriteFile(profile, []byte(`{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, programThatExits(t, 9), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--security-opt", "no-new-privileges"}, {"--cap-drop=ALL"}, {"--workdir=/"}} {
		flags = append([]string{"run", "--security-opt", "seccomp=" + profile}, flags...)
		expect(t, b.Run(append(flags, "--", program)...), 9)
		expect(t, b.Run(append(flags, "--", "/no/such/program")...), 127, "/no/such/program", "no such file")
		expect(t, b.Run(append(flags, "--", profile)...), 126, profile, "permission denied")
		// It does more than it may.
		expect(t, b.Run(append(flags, "--", "/bin/true")...), 128+int(unix.SIGSYS))
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// programThatExits is a program whose only system call is exit_group(2).
func programThatExits(t *testing.T, code byte) []byte {
	t.Helper()
	const base, headers = 0x400000, 64 + 56
	text := []byte{0xb8, unix.SYS_EXIT_GROUP, 0, 0, 0, 0xbf, code, 0, 0, 0, 0x0f, 0x05} // mov eax, mov edi, syscall
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	size := uint64(headers + len(text))
	load := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000}
	var program bytes.Buffer
	for _, part := range []any{header, load, text} {
		if err := binary.Write(&program, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return program.Bytes()
}
