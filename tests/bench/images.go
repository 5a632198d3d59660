package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cloister/tests/analysis"
)

// imageRuns is how often a job with each image is timed, by turns.
const imageRuns = 5

// An imageSize is an image in a volume and what jobs took that ran it.
type imageSize struct {
	bytes    int64
	started  []float64 // until the script's first instruction, in seconds since noded read the request
	executed []float64 // `apptainer exec IMAGE true`, in seconds
}

// measureImages runs the tiny image, padded to each size, out of a volume. The
// padding is a hole, so that the volume fits on the guests' disks: what a job
// would take longer for is reading it.
func (b *bench) measureImages(ctx context.Context) ([]imageSize, error) {
	sizes := []imageSize{{bytes: 100e6}, {bytes: 10e9}}
	if err := b.MakeVolume(ctx, who, dataName, map[string]string{"data.txt": "patients\n"}); err != nil {
		return nil, err
	}
	for i, s := range sizes {
		dir := fmt.Sprintf("software-%d", i)
		if err := os.MkdirAll(filepath.Join(b.LaptopDir(who), dir), 0o755); err != nil {
			return nil, err
		}
		if err := analysis.Padded(ctx, filepath.Join(b.LaptopDir(who), dir, "tiny.sif"), s.bytes); err != nil {
			return nil, err
		}
		if _, err := b.Laptop(ctx, who, "volume", "create", dir+".luks", "--from", dir); err != nil {
			return nil, err
		}
		if err := b.Upload(ctx, who, dir+".luks"); err != nil {
			return nil, err
		}
	}
	for run := range 1 + imageRuns {
		for i := range sizes {
			s, times, err := b.timed(ctx, fmt.Sprintf("image-%d-%d", i, run), imageScript(fmt.Sprintf("software-%d.luks", i), fmt.Sprintf("image-%d-%d.luks", i, run)))
			if err != nil {
				return nil, err
			}
			if len(times) != 2 {
				return nil, fmt.Errorf("the sealed job printed %d times", len(times))
			}
			if run > 0 { // the first one warms up
				sizes[i].started = append(sizes[i].started, s.first)
				sizes[i].executed = append(sizes[i].executed, times[1]-times[0])
			}
		}
	}
	return sizes, nil
}

func imageScript(software, results string) string {
	return script(results, "echo \"$EPOCHREALTIME\"\napptainer -q exec tiny.sif /bin/true\necho \"$EPOCHREALTIME\"\n",
		"volume="+software+":/software:ro", "image=/software/tiny.sif")
}

func printImages(sizes []imageSize) {
	fmt.Printf("\nA job whose image lies in a volume; medians of %d, by turns\n", imageRuns)
	for _, s := range sizes {
		fmt.Printf("  image of %6.0f MB: first instruction after %5.2f s  (%s), apptainer exec %5.2f s  (%s)\n",
			float64(s.bytes)/1e6, median(s.started), spread(s.started), median(s.executed), spread(s.executed))
	}
	small, large := sizes[0], sizes[1]
	fmt.Printf("large / small: %.2f × to the first instruction, %.2f × for apptainer exec (bar: the same)\n",
		median(large.started)/median(small.started), median(large.executed)/median(small.executed))
}
