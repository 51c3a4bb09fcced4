package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var namedTest = regexp.MustCompile("`([a-z0-9/-]+)\\.(Test[A-Za-z0-9_]+)`")

// What the page on attacks says is tested, is.
func TestThePageOfAttacksNamesTestsThatThereAre(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	found := namedTest.FindAllStringSubmatch(string(page), -1)
	if rows := strings.Count(string(page), "| CVE-"); len(found) < rows || rows < 15 {
		t.Errorf("it names %d tests in %d rows", len(found), rows)
	}
	for _, name := range found {
		files, err := filepath.Glob(filepath.Join("../..", name[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		there := slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "\nfunc "+name[2]+"(t *testing.T)")
		})
		if !there {
			t.Errorf("there is no test %s in %s", name[2], name[1])
		}
	}
}
