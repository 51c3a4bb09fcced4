//go:build linux

package main

import (
	"regexp"
	"testing"

	"berth/engine"
)

// What the help says an IMAGE is, is one.
func TestTheFormsOfAnImage(t *testing.T) {
	optional := regexp.MustCompile(`\[([^\]]*)\]`)
	forms := regexp.MustCompile(`(?m)^  (\S+) `).FindAllStringSubmatch(imageForms, -1)
	if len(forms) != 5 {
		t.Errorf("the help names %d forms of an image", len(forms))
	}
	for _, form := range forms {
		full := regexp.MustCompile(`\.\.\.`).ReplaceAllString(optional.ReplaceAllString(form[1], "$1"), "")
		for _, text := range []string{full, optional.ReplaceAllString(form[1], "")} {
			text = regexp.MustCompile(`REF|FILE|NAME|DIR|LABEL|VALUE`).ReplaceAllStringFunc(text, func(word string) string {
				return map[string]string{"REF": "busybox:1", "FILE": "/a.tar", "NAME": "example.com/app", "DIR": "/a", "LABEL": "version", "VALUE": "1"}[word]
			})
			if _, err := engine.ParseImage(text, ""); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}
