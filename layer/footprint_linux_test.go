package layer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/testrig"
)

// freeBytes is what statfs(2) says once all is written.
func freeBytes(t testing.TB, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	return freeNow(t, dir)
}

func freeNow(t testing.TB, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// aLot is a layer of some thousand nodes of every kind.
func aLot(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 2))
	content := pseudoRandom(1 << 20)
	var members []member
	for d := range 200 {
		name := fmt.Sprintf("usr/share/package%d", d)
		members = append(members, dir(name))
		for f := range 10 {
			members = append(members, file(fmt.Sprintf("%s/%d", name, f), content[:int(random.ExpFloat64()*6000)]))
		}
		members = append(members,
			hardLink(name+"/hard", name+"/0"),
			symlink(name+"/soft", "0"),
			symlink(name+"/far", strings.Repeat("../x/", 100)),
			file(name+"/.wh.gone", ""),
			file(name+"/labelled", content[:100]).xattr("user.label", content[d:d+300]),
		)
	}
	members = append(members, dir("etc"), dir("etc"), file("etc/large", content),
		sparse("sparse", 64<<20, "0,4096,33554432,65536", content[:4096+65536]))
	return archive(members...)
}

// What a layer occupies, and what a sweep says it has freed, is what statfs shows.
func TestSizesOnDiskAreThoseOfTheFileSystem(t *testing.T) {
	for fstype, tolerance := range map[string]float64{"ext4": 0.01, "xfs": 0.01, "btrfs": 0.03} {
		t.Run(fstype, func(t *testing.T) {
			mnt := testrig.LoopFS(t, fstype, 300)
			s := openStore(t, filepath.Join(mnt, "store"), DefaultLimits)
			addLayer(t, s, archive(file("first", "")))
			before := freeBytes(t, mnt)
			info := addLayer(t, s, aLot(1))
			after := freeBytes(t, mnt)
			wantNear(t, "the layer occupies", info.Disk, before-after, tolerance)
			if got, err := s.Info(info.DiffID, Tree); err != nil || got.Disk != info.Disk {
				t.Errorf("its record says %d, %v", got.Disk, err)
			}
			measured, err := measureTree(s.layerDir(info.DiffID))
			if err != nil {
				t.Error(err)
			}
			wantNear(t, "a walk says", measured, before-after, tolerance)

			doomed := func(map[image.Digest]bool) (Decision, error) {
				all, err := s.List()
				keep := make(map[image.Digest]bool)
				for _, id := range all {
					keep[id] = id != info.DiffID
				}
				return Decision{Keep: keep}, err
			}
			would, err := s.Sweepable(context.Background(), doomed)
			if err != nil || len(would.Layers) != 1 || would.Bytes != info.Disk {
				t.Errorf("a sweep would remove %+v, %v", would, err)
			}
			swept, err := s.Sweep(context.Background(), doomed)
			if err != nil || len(swept.Layers) != 1 {
				t.Errorf("swept %+v, %v", swept, err)
			}
			gained := freeNow(t, mnt) - after
			wantNear(t, "the sweep has freed", swept.Bytes, gained, tolerance)
			wantNear(t, "the dry run said", would.Bytes, gained, tolerance)
		})
	}
}

func wantNear(t *testing.T, what string, got, want int64, tolerance float64) {
	t.Helper()
	off := float64(got)/float64(want) - 1
	t.Logf("%s %d bytes, the file system says %d: %+.2f %%", what, got, want, off*100)
	if off < -tolerance || off > tolerance {
		t.Errorf("%s %d bytes, the file system says %d", what, got, want)
	}
}

func TestALayerOfBeforeItsSizeWasKnownIsMeasured(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(specimen...))
	damage{t, s, s.formDir(info.DiffID, Tree)}.edit(infoFile, fmt.Sprintf(`"disk":%d`, info.Disk), `"disk":0`)
	would, err := s.Sweepable(context.Background(), keepNothing)
	if err != nil || would.Bytes < info.Disk-4096 || would.Bytes > info.Disk {
		t.Errorf("a sweep would remove %+v, %v; unpacking said %d", would, err, info.Disk)
	}
	wantClean(t, s, info.DiffID)
}
