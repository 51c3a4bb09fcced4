//go:build linux

package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
)

func TestWhichContainerIsMeant(t *testing.T) {
	var all []*v1.Response_GetContainers_Container
	for _, text := range []string{"web", "web2", "web.child", "pod", "pod.one", "pod.two"} {
		id, err := container.ParseID(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &v1.Response_GetContainers_Container{ContainerId: containerizer.IDMessage(id)})
	}
	for typed, want := range map[string]string{"web": "web", "web2": "web2", "p": "pod", "pod.o": "pod.one", "web.c": "web.child", "pod.two": "pod.two"} {
		found, err := choose(all, typed)
		if err != nil || idText(found.GetContainerId()) != want {
			t.Errorf("%q is %v, %v", typed, found, err)
		}
	}
	for typed, c := range map[string]struct {
		class error
		words string
	}{
		"we":    {container.ErrInvalid, "it may be web, web2"},
		"pod.":  {container.ErrInvalid, "it may be pod.one, pod.two"},
		"":      {container.ErrNotFound, "berth ps -a"},
		"wib2":  {container.ErrNotFound, "did you mean web2?"},
		"other": {container.ErrNotFound, "berth ps -a"},
	} {
		if _, err := choose(all, typed); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v", typed, err)
		}
	}
}

// Ctrl-P Ctrl-Q leaves, however it comes; every other key goes on.
func TestTheKeysThatLeave(t *testing.T) {
	for typed, want := range map[string]struct {
		keys string
		left bool
	}{
		"abc":          {"abc", false},
		"a\x10\x11b":   {"a", true},
		"a\x10b\x11":   {"a\x10b\x11", false},
		"\x10\x10\x11": {"\x10", true},
		"\x11\x10":     {"\x11", false}, // the Ctrl-P waits for the next key
	} {
		for name, from := range map[string]io.Reader{"at once": strings.NewReader(typed), "one by one": iotest.OneByteReader(strings.NewReader(typed))} {
			l := &leaving{from: from, left: make(chan struct{})}
			keys, err := io.ReadAll(l)
			if err != nil || string(keys) != want.keys || l.gone != want.left {
				t.Errorf("%q %s: %q, left %v, %v", typed, name, keys, l.gone, err)
			}
		}
	}
}

func TestWhereTheLastLinesBegin(t *testing.T) {
	long := strings.Repeat("x", logBlock) + "\n" + strings.Repeat("y", 2*logBlock) + "\n"
	for _, c := range []struct {
		text  string
		lines int
		want  string
	}{
		{"", 3, ""}, {"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 2, "b\nc"}, {"a\n", 1, "a\n"}, {"a\nb\n", 0, ""}, {"\n\n\n", 2, "\n\n"},
		{"a\nb\n", 9, "a\nb\n"}, {long, 1, long[logBlock+1:]}, {long, 2, long},
	} {
		from, err := lastLines(strings.NewReader(c.text), int64(len(c.text)), c.lines)
		if err != nil || c.text[from:] != c.want {
			t.Errorf("the last %d lines of %.20q begin at %d, %v", c.lines, c.text, from, err)
		}
	}
}

func TestWhatIsPrintedAlreadyIsLeftOut(t *testing.T) {
	var out bytes.Buffer
	s := &skipper{5, &out}
	for _, part := range []string{"abc", "defg", "hi"} {
		if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
			t.Error(n, err)
		}
	}
	if out.String() != "fghi" {
		t.Errorf("%q", out.String())
	}
}

func TestTheShareOfAProcessor(t *testing.T) {
	at := func(seconds, user, system float64) *v1.ResourceStatistics {
		return &v1.ResourceStatistics{Timestamp: proto.Float64(seconds), CpusUserTimeSecs: proto.Float64(user), CpusSystemTimeSecs: proto.Float64(system)}
	}
	if got := cpuShare(at(10, 1, 1), at(12, 1.5, 1.5)); got != "50.0%" {
		t.Error(got)
	}
	if got := cpuShare(nil, at(12, 1, 1)); got != "-" { // it is new
		t.Error(got)
	}
}

// What a container calls itself does not steer the terminal of who looks at a table.
func TestNothingSteersTheTerminal(t *testing.T) {
	if got := printable("a\x1b[2Jb\r\n\u009bc"); got != "a [2Jb   c" {
		t.Errorf("%q", got)
	}
}

func TestPathsInContainers(t *testing.T) {
	for arg, want := range map[string]string{"web:/etc": "web /etc", "pod.a:x": "pod.a x", "./a:b": "", "/a:b": "", "file": "", ":x": ""} {
		id, path, ok := inContainer(arg)
		if ok != (want != "") || ok && id+" "+path != want {
			t.Errorf("%s: %q %q %v", arg, id, path, ok)
		}
	}
}
