package seccomp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/capability"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

const good = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "uname", "action": "SCMP_ACT_ERRNO"}]}`

func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"good.json": good, "broken.json": "{", "closed.json": `{"defaultAction": "SCMP_ACT_ERRNO"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Dir: dir, Bounding: func(*isolator.Container) (capability.Set, error) { return capability.Of("CHOWN"), nil }}
}

func isolatorOf(t *testing.T, o Options) *Isolator {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	i, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func config(info *v1.SeccompInfo, profile string) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{LinuxInfo: &v1.LinuxInfo{Seccomp: info}}}
	if profile != "" {
		c.Security = &v1.SecurityOptions{SeccompProfile: &profile}
	}
	return c
}

func named(name string) *v1.SeccompInfo { return &v1.SeccompInfo{ProfileName: &name} }

var unconfined = &v1.SeccompInfo{Unconfined: proto.Bool(true)}

func bad() map[string]*v1.ContainerConfig {
	both := named("good.json")
	both.Unconfined = proto.Bool(true)
	return map[string]*v1.ContainerConfig{
		"nothing chosen":         config(&v1.SeccompInfo{}, ""),
		"both":                   config(both, ""),
		"a name and a profile":   config(named("good.json"), good),
		"nothing and a profile":  config(unconfined, good),
		"an unknown name":        config(named("absent.json"), ""),
		"a name that climbs":     config(named("../good.json"), ""),
		"a broken file":          config(named("broken.json"), ""),
		"a broken profile":       config(nil, `{"defaultAction": "SCMP_ACT_PERHAPS"}`),
		"nothing can be started": config(named("closed.json"), ""),
	}
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, isolatorOf(t, options(t)), isolatortest.Requests{Good: config(named("good.json"), ""), Bad: bad()})
}

func TestEachErrorNamesWhatIsWrong(t *testing.T) {
	i := isolatorOf(t, options(t))
	for name, words := range map[string]string{
		"nothing chosen": "neither", "both": "one of", "an unknown name": "absent.json", "a name that climbs": "../good.json",
		"a broken file": "broken.json", "a broken profile": "SCMP_ACT_PERHAPS", "nothing can be started": "execve",
	} {
		_, err := i.Prepare(t.Context(), &isolator.Container{Config: bad()[name]})
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "linux/seccomp") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhichProfileItIs(t *testing.T) {
	o := options(t)
	plain := isolatorOf(t, o)
	o.ProfileName = "good.json"
	operators := isolatorOf(t, o)
	size := func(i *Isolator, c *v1.ContainerConfig) int {
		info, err := i.Prepare(t.Context(), &isolator.Container{Config: c})
		if err != nil {
			t.Fatal(err)
		}
		if info == nil {
			return 0
		}
		return len(info.Confinement.Filter)
	}
	small := size(plain, config(named("good.json"), ""))
	for name, c := range map[string]struct{ got, want int }{
		"brought":                       {size(plain, config(nil, good)), small},
		"the operator's":                {size(operators, &v1.ContainerConfig{}), small},
		"none":                          {size(plain, config(unconfined, "")), 0},
		"none, whatever the operator's": {size(operators, config(unconfined, "")), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: a filter of %d bytes, want %d", name, c.got, c.want)
		}
	}
	if standard := size(plain, &v1.ContainerConfig{}); standard <= small {
		t.Errorf("without a word: %d bytes", standard)
	}
}

func TestTheOperatorsProfileIsLookedAtWhenBerthBegins(t *testing.T) {
	for _, name := range []string{"absent.json", "broken.json"} {
		o := options(t)
		o.ProfileName = name
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "--seccomp_profile_name") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Options{ProfileName: "good.json"}); err == nil || !strings.Contains(err.Error(), "--seccomp_config_dir") {
		t.Errorf("no directory: %v", err)
	}
}
