//go:build linux

package bench

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"text/tabwriter"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/testrig"
)

// BenchmarkSize tells how much less is free on a disk once an image was pulled, beside the
// sum of the image's unique layers as tars.
func BenchmarkSize(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.LargeDebianImage(b, reg, "debian:1")
	image, program, disk := reg.Direct()+"/debian:1", testrig.Berth(b), testrig.LoopFS(b, "ext4", 8<<10)
	ctr, docker := startContainerd(b, disk), startDocker(b, disk)
	d := pulled(b, &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(image)}}, disk, "erofs")
	var tars uint64
	for _, id := range d.record.Layers { // each is there once
		info, err := d.Layers.Info(id, d.Provisioner.Form())
		if err != nil {
			b.Fatal(err)
		}
		tars += uint64(info.Size)
	}
	table := tabwriter.NewWriter(&tables, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\nWhat an image of %d layers, %d MB as tars, takes of an ext4\n\tMB\tof its tars\t\n", len(d.record.Layers), tars>>20)
	for _, one := range []struct {
		name, needs string
		command     func(dir string) []string
	}{
		{"berth", "env", func(dir string) []string { return berth(program, dir, "pull", image) }},
		{"berth, trees", "env", func(dir string) []string {
			return berth(program, dir, "pull", "--image_provisioner_backend=overlay", image)
		}},
		{"containerd (ctr)", "containerd", func(string) []string {
			return ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", image)
		}},
		{"docker", "dockerd", func(string) []string { return docker("pull", "--quiet", image) }},
		{"podman", "podman", func(dir string) []string { return podman(dir, "pull", "--quiet", "--tls-verify=false", image) }},
	} {
		if _, err := exec.LookPath(one.needs); err != nil {
			continue
		}
		dir, clean := freshDir(b, disk, "size")
		filled := fill(b, disk, one.command(dir))
		taken := filled.before - filled.after
		fmt.Fprintf(table, "%s\t%d\t%.3f\t\n", one.name, taken>>20, float64(taken)/float64(tars))
		b.ReportMetric(float64(taken)/float64(tars), strings.ReplaceAll(one.name, " ", "-")+"-of-tars")
		clean()
	}
	table.Flush()
	b.ReportMetric(0, "ns/op") // no time is measured
}
