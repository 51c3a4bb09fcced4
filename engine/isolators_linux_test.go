package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/testrig"
	"berth/isolator"
)

// The page lists them in the order in which they prepare a container, and nothing else in
// their manner.
func TestThePageOfIsolatorsListsThoseOfTheTable(t *testing.T) {
	page, err := os.ReadFile("../docs/isolators.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, want []string
	for _, heading := range regexp.MustCompile(`(?m)^## (\S+/\S+|environment_secret)$`).FindAllSubmatch(page, -1) {
		listed = append(listed, string(heading[1]))
	}
	for _, i := range isolators {
		want = append(want, i.name)
	}
	want = append(want, "external/NAME")
	if !slices.Equal(listed, want) {
		t.Errorf("docs/isolators.md has headings for\n%q, the table has\n%q", listed, want)
	}
}

// Each section says what the isolator reads, does and reports, or whose it is like.
func TestThePageOfIsolatorsSaysTheSameOfEach(t *testing.T) {
	page, err := os.ReadFile("../docs/isolators.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range isolators {
		_, section, _ := strings.Cut(string(page), "\n## "+i.name+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if strings.HasPrefix(strings.TrimSpace(section), "The same for") {
			continue
		}
		for _, part := range []string{"Reads", "Does", "Reports"} {
			if !strings.Contains(section, "\n- **"+part+"**") {
				t.Errorf("%s: nothing is said of what it %s", i.name, strings.ToLower(part))
			}
		}
	}
}

// silent is an isolator of nothing.
type silent struct{ prepared int }

func (s *silent) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	s.prepared++
	return nil, nil
}

func (s *silent) Cleanup(context.Context, container.ID) error { return nil }

func TestAnIsolatorNeedsANameOfItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		named []NamedIsolator
		class error
	}{
		"berth's own":       {[]NamedIsolator{{"cgroups/mem", &silent{}}}, container.ErrExists},
		"twice":             {[]NamedIsolator{{"a/b", &silent{}}, {"a/b", &silent{}}}, container.ErrInvalid},
		"of an executable":  {[]NamedIsolator{{"external/b", &silent{}}}, container.ErrInvalid},
		"no group":          {[]NamedIsolator{{"b", &silent{}}}, container.ErrInvalid},
		"three parts":       {[]NamedIsolator{{"a/b/c", &silent{}}}, container.ErrInvalid},
		"no name":           {[]NamedIsolator{{"a/", &silent{}}}, container.ErrInvalid},
		"an upper case":     {[]NamedIsolator{{"a/B", &silent{}}}, container.ErrInvalid},
		"a comma":           {[]NamedIsolator{{"a/b,c/d", &silent{}}}, container.ErrInvalid},
		"nothing but names": {[]NamedIsolator{{"a/b", nil}}, container.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			config := config(t)
			config.Isolators = c.named
			_, err := Open(t.Context(), config)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.named[0].Name) {
				t.Errorf("got %v, want an error of class %v that names %s", err, c.class, c.named[0].Name)
			}
			if _, err := Inspect(t.Context(), config); !errors.Is(err, c.class) {
				t.Errorf("info: %v", err)
			}
		})
	}
}

// isolatorDir has an executable external/NAME for each name, and fails for those that begin
// with broken.
func isolatorDir(t *testing.T, names ...string) string {
	t.Helper()
	dir := testrig.TempDir(t)
	for _, name := range names {
		text := "#!/bin/sh\necho '{\"version\": 1}'\n"
		if strings.HasPrefix(name, "broken") {
			text = "#!/bin/sh\necho out of order >&2; exit 1\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestIsolatorsOfOthersComeLastAndOnlyWhenTheyAreNamed(t *testing.T) {
	c := config(t)
	one, other, unnamed := &silent{}, &silent{}, &silent{}
	c.Isolators = []NamedIsolator{{"third/one", one}, {"third/unnamed", unnamed}, {"third/other", other}}
	c.IsolatorDir = isolatorDir(t, "a", "b", "broken")
	c.Isolation = []string{"external/b", "third/other", "external/a", "third/one", "filesystem/linux"}
	e, _ := openEngine(t, c)
	chosen := e.Containerizer.Isolators
	var at []int
	for _, want := range []isolator.Isolator{one, other} {
		at = append(at, slices.Index(chosen, want))
	}
	if n := len(chosen); !slices.Equal(at, []int{n - 4, n - 3}) || slices.Contains(chosen, isolator.Isolator(unnamed)) {
		t.Errorf("the %d isolators are %+v; those of the configuration are at %v", n, chosen, at)
	}

	c.Isolation = []string{"external/broken", "external/none", "third/none"}
	_, err := Open(t.Context(), c)
	if err == nil {
		t.Fatal("what does not work was taken")
	}
	for _, words := range []string{"out of order", c.IsolatorDir + "/none", "third/none"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
}

func TestInfoTellsOfTheIsolatorsOfOthers(t *testing.T) {
	c := config(t)
	c.Isolators = []NamedIsolator{{"third/one", &silent{}}}
	c.IsolatorDir = isolatorDir(t, "good", "broken")
	c.Isolation = append(c.Isolation, "external/good", "external/gone", "no/such")
	info, err := Inspect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]Ability)
	for _, a := range info.Isolators {
		found[a.Name] = a
	}
	if a := found["external/good"]; !a.Works || !a.Default {
		t.Errorf("a good one: %+v", a)
	}
	if a := found["external/broken"]; a.Works || a.Default || !strings.Contains(a.Reason, "out of order") {
		t.Errorf("a broken one: %+v", a)
	}
	if a := found["external/gone"]; a.Works || !a.Default || !strings.Contains(a.Reason, "gone") {
		t.Errorf("one that is not there: %+v", a)
	}
	if a := found["no/such"]; a.Works || !a.Default || !strings.Contains(a.Reason, "no such isolator") {
		t.Errorf("one that nobody knows: %+v", a)
	}
	if a := found["third/one"]; !a.Works || a.Default {
		t.Errorf("one of the configuration: %+v", a)
	}
}
