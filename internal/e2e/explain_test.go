//go:build linux

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/internal/testrig"
)

// explanation is what of `berth pull --explain --json` this test is about.
type explanation struct {
	Reference string `json:"reference"`
	Pull      *struct {
		Image   string        `json:"image"`
		TotalNS time.Duration `json:"total_ns"`
		Stages  []stage       `json:"stages"`
		Layers  []struct {
			Fetched bool    `json:"fetched"`
			Size    int64   `json:"size"`
			Stages  []stage `json:"stages"`
		} `json:"layers"`
	} `json:"pull"`
}

type stage struct {
	Stage string        `json:"stage"`
	NS    time.Duration `json:"ns"`
}

func inAll(all []stage) (total time.Duration) {
	for _, s := range all {
		total += s.NS
	}
	return total
}

func explain(t *testing.T, b *testrig.Command, image string) explanation {
	t.Helper()
	r := b.Run("pull", "--explain", "--json", image)
	expect(t, r, 0)
	var e explanation
	if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	return e
}

func TestPullExplains(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.MultiLayerImage(t, reg, "layers:1")
	b := testrig.Berth(t)
	before := time.Now()
	e := explain(t, b, image)
	took := time.Since(before)
	if e.Pull == nil || e.Reference != image || e.Pull.Image != image {
		t.Fatalf("the explanation is %+v", e)
	}
	if got := inAll(e.Pull.Stages); got != e.Pull.TotalNS || got <= 0 || got > took {
		t.Errorf("the stages of the pull take %s, the pull %s, berth %s", got, e.Pull.TotalNS, took)
	}
	fetch := slices.IndexFunc(e.Pull.Stages, func(s stage) bool { return s.Stage == "fetch" })
	if fetch < 0 || len(e.Pull.Layers) != 7 {
		t.Fatalf("the stages are %v, of %d layers", e.Pull.Stages, len(e.Pull.Layers))
	}
	want := []string{"queue", "connect", "first byte", "transfer", "inflate", "unpack", "wait", "sync"}
	for i, l := range e.Pull.Layers {
		var names []string
		for _, s := range l.Stages {
			names = append(names, s.Stage)
		}
		if !l.Fetched || l.Size == 0 || !slices.Equal(names, want) {
			t.Errorf("layer %d is %+v, want the stages %q", i, l, want)
		}
		if got := inAll(l.Stages); got != e.Pull.Stages[fetch].NS {
			t.Errorf("the stages of layer %d take %s, the fetch %s", i, got, e.Pull.Stages[fetch].NS)
		}
	}
	if again := explain(t, b, image); again.Pull != nil || again.Reference != image {
		t.Errorf("of an image that is there, the explanation is %+v", again)
	}
}

func TestPullExplainsToPeople(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	r := b.Run("pull", "--explain", image)
	expect(t, r, 0)
	for _, word := range []string{"LAYER", "FIRST BYTE", "SLOWEST", image + ": resolve ", " + fetch ", "1 of 1 layers were fetched"} {
		if !strings.Contains(r.Stdout, word) {
			t.Errorf("it does not say %q:\n%s", word, r.Stdout)
		}
	}
	id, _, _ := strings.Cut(r.Stdout, "\n")
	r = b.Run("pull", "--explain", image)
	expect(t, r, 0)
	if want := id + "\n" + image + " was there, nothing was fetched\n"; r.Stdout != want {
		t.Errorf("of an image that is there, it says %q, want %q", r.Stdout, want)
	}
	if r := b.Run("pull", image); r.Stdout != id+"\n" {
		t.Errorf("without --explain it says %q, want %q", r.Stdout, id+"\n")
	}
}
