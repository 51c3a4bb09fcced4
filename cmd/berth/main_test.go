//go:build linux

package main

import "testing"

// A command is made alone when it is asked for by the name in the table: it has to be the one
// that then looks for it.
func TestACommandIsMadeUnderItsName(t *testing.T) {
	if all := len(command().Commands()); all != len(commands) || len(command("none").Commands()) != all {
		t.Errorf("of %d commands there are %d", len(commands), all)
	}
	for _, c := range commands {
		root := command(c.name, "word")
		found, rest, err := root.Find([]string{c.name, "word"})
		if err != nil || len(root.Commands()) != 1 || found.Name() != c.name || len(rest) != 1 {
			t.Errorf("%s: found %s and %q among %d, %v", c.name, found.Name(), rest, len(root.Commands()), err)
		}
	}
}
