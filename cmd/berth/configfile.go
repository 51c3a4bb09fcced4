//go:build linux

package main

import (
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"berth/container"
)

// fromFile sets the flags that were not given, nor in the environment, from a file in TOML:
//
//	work_dir = "/srv/berth"
//	isolation = ["filesystem/linux", "cgroups/mem"]
//
// A name that no flag has is refused, with the one that was probably meant.
func fromFile(f *pflag.FlagSet, path string) error {
	if path == "" {
		return nil
	}
	var values map[string]any
	if _, err := toml.DecodeFile(path, &values); err != nil {
		return fmt.Errorf("--config: read %s: %w", path, err)
	}
	for name, value := range values {
		flag := f.Lookup(name)
		if flag == nil || flag.Name == "config" || flag.Name == "help" {
			return fmt.Errorf("--config: %s: %w: there is no flag %q%s", path, container.ErrInvalid, name, didYouMean(f, name))
		}
		if flag.Changed {
			continue
		}
		if err := f.Set(flag.Name, flagText(value)); err != nil {
			return fmt.Errorf("--config: %s: %w: %w", path, container.ErrInvalid, err)
		}
	}
	return nil
}

// flagText is a value as it would be written on the command line.
func flagText(value any) string {
	list, ok := value.([]any)
	if !ok {
		return fmt.Sprint(value)
	}
	var texts []string
	for _, v := range list {
		texts = append(texts, fmt.Sprint(v))
	}
	return strings.Join(texts, ",")
}

// didYouMean names the flag whose name is nearest, if one is near.
func didYouMean(f *pflag.FlagSet, name string) string {
	var names []string
	f.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden {
			names = append(names, "--"+flag.Name)
		}
	})
	return nearest("--"+strings.ReplaceAll(name, "-", "_"), names)
}

// nearest asks whether the nearest of some names was meant, if one is near.
func nearest(typed string, names []string) string {
	best, least := "", 1+max(1, len(strings.TrimPrefix(typed, "--"))/3)
	for _, name := range names {
		if d := distance(typed, name); d < least {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is how many characters are to be put in, left out, replaced, or exchanged with the
// next one to make one name of the other (optimal string alignment).
func distance(a, b string) int {
	var last []int // of the row before row
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			replaced := row[j]
			if a[i] != b[j] {
				replaced++
			}
			next[j+1] = min(replaced, next[j]+1, row[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], last[j-1]+1)
			}
		}
		last, row = row, next
	}
	return row[len(b)]
}
