//go:build linux

package bench

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Sizes of a chart, in pixels.
const (
	chartWidth = 760
	nameWidth  = 220
	timeWidth  = 90
	barHeight  = 20
	rowHeight  = 30
	topHeight  = 44
)

// draw writes the medians of a contest as a chart to the directory that BERTH_BENCH_CHARTS
// names; without it nobody wants any.
func (r result) draw() error {
	dir := os.Getenv("BERTH_BENCH_CHARTS")
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.fileName()), []byte(r.chart()), 0o644)
}

// fileName is made of the title.
func (r result) fileName() string {
	words := strings.FieldsFunc(strings.ToLower(r.title), func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') })
	return strings.Join(words, "-") + ".svg"
}

// chart is a bar for each contender, and a line from its fastest to its slowest round. The
// colours can be read on a light and on a dark page.
func (r result) chart() string {
	var longest time.Duration
	for _, one := range r.contenders {
		longest = max(longest, slices.Max(walls(r.samples[one.name])))
	}
	scale := float64(chartWidth-nameWidth-timeWidth) / float64(longest)
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13" fill="#777">`+"\n",
		chartWidth, topHeight+rowHeight*len(r.contenders))
	fmt.Fprintf(&svg, `<title>%s</title>`+"\n", escaped(r.title))
	fmt.Fprintf(&svg, `<text x="0" y="18" font-size="15" font-weight="bold">%s</text>`+"\n", escaped(r.title))
	for i, one := range r.contenders {
		all := walls(r.samples[one.name])
		y, colour := topHeight+i*rowHeight, "#8899aa"
		if i == 0 {
			colour = "#2a7de1"
		}
		middle := float64(y) + barHeight/2
		fmt.Fprintf(&svg, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", nameWidth-8, y+15, escaped(one.name))
		fmt.Fprintf(&svg, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", nameWidth, y, float64(median(all))*scale, barHeight, colour)
		fmt.Fprintf(&svg, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#444"/>`+"\n",
			nameWidth+float64(slices.Min(all))*scale, nameWidth+float64(slices.Max(all))*scale, middle, middle)
		fmt.Fprintf(&svg, `<text x="%.1f" y="%d">%s</text>`+"\n", nameWidth+float64(slices.Max(all))*scale+6, y+15, short(median(all)))
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes all
	return b.String()
}
