package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"berth/container"
)

// unknown stands for system and architecture of entries that are not images:
// the attestations that BuildKit puts beside them.
const unknown = "unknown"

// Choose returns the entry of an index that suits want best: the highest variant
// that want can run (an arm v7 takes v7, else v6, else v5; amd64 v3 takes v3, else
// v2, else a plain amd64), whatever the order of the entries. Among equals the
// first wins, as the image-spec demands.
//
// Entries without a platform come last, the first of them; whoever follows one has
// to look at the platform of what it finds. Attestations and entries that are
// neither manifests nor indexes are never chosen.
//
// The error is of class ErrNotFound and names the platforms that are offered.
func Choose(want Platform, offered []Descriptor) (Descriptor, error) {
	const none = -1
	best, bestDistance, unstated := none, 0, none
	for i, d := range offered {
		switch {
		case !d.choosable():
		case d.Platform == nil:
			if unstated == none {
				unstated = i
			}
		default:
			distance, ok := want.distance(*d.Platform)
			if ok && (best == none || distance < bestDistance) {
				best, bestDistance = i, distance
			}
		}
	}
	if best == none {
		best = unstated
	}
	if best == none {
		return Descriptor{}, fmt.Errorf("image for %s: %w: %s", want, container.ErrNotFound, describe(offered))
	}
	return offered[best], nil
}

// Accepts reports whether what was made for offered runs on p.
func (p Platform) Accepts(offered Platform) bool {
	_, ok := p.distance(offered)
	return ok
}

// distance says how far offered is below p: 0 is p itself. It is false if offered
// does not run on p.
func (p Platform) distance(offered Platform) (int, bool) {
	want, have := p.Normalize(), offered.Normalize()
	switch {
	case want.OS != have.OS, want.Architecture != have.Architecture:
		return 0, false
	case want.OSVersion != "" && have.OSVersion != "" && want.OSVersion != have.OSVersion:
		return 0, false
	case !containsAll(want.OSFeatures, have.OSFeatures):
		return 0, false
	case want.Variant == have.Variant:
		return 0, true
	}
	wantLevel, wantOK := level(want)
	haveLevel, haveOK := level(have)
	switch {
	case wantOK && haveOK:
		return wantLevel - haveLevel, haveLevel <= wantLevel
	case have.Variant == "":
		// Of a variant without a number it is known only that the base runs on it.
		return maxLevel, true
	}
	return 0, false
}

func containsAll(set, subset []string) bool {
	return !slices.ContainsFunc(subset, func(s string) bool { return !slices.Contains(set, s) })
}

const maxLevel = 100 * 1000

// level turns v8 into 800 and v8.2 into 802.
func level(p Platform) (int, bool) {
	variant := p.Variant
	if variant == "" {
		variant = baseVariant[p.Architecture]
	}
	majorText, minorText, hasMinor := strings.Cut(strings.TrimPrefix(variant, "v"), ".")
	if !hasMinor {
		minorText = "0"
	}
	major, majorErr := strconv.ParseUint(majorText, 10, 8)
	minor, minorErr := strconv.ParseUint(minorText, 10, 8)
	if majorErr != nil || minorErr != nil || minor > 99 {
		return 0, false
	}
	return int(major)*100 + int(minor), true
}

// describe lists what an index offers, for a person. An index may have thousands
// of entries, a line may not.
func describe(offered []Descriptor) string {
	const most = 20
	var platforms []string
	for _, d := range offered {
		if d.choosable() && d.Platform != nil {
			platforms = append(platforms, d.Platform.String())
		}
	}
	if len(platforms) == 0 {
		return "the index offers no image"
	}
	slices.Sort(platforms)
	platforms = slices.Compact(platforms)
	if len(platforms) > most {
		platforms = append(platforms[:most], fmt.Sprintf("and %d more", len(platforms)-most))
	}
	return "offered: " + strings.Join(platforms, ", ")
}
