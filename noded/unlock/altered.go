package unlock

import (
	"fmt"

	"cloister/noded/devicemapper"
)

// Altered names the session's volumes of which somebody tried to read a block
// that dm-verity did not find to be what the root hash says.
func Altered(session string) ([]string, error) {
	all, err := devices()
	if err != nil {
		return nil, fmt.Errorf("looking for altered volumes: %w", err)
	}
	var altered []string
	for _, d := range all {
		if d.session != session || d.kind != verity {
			continue
		}
		bad, err := devicemapper.Corrupted(d.name)
		if err != nil {
			return altered, err
		}
		if bad {
			altered = append(altered, fmt.Sprintf("volume %d", d.index))
		}
	}
	return altered, nil
}
