package image

import "errors"

// Remedy says what its owner does about an image that Verify refused, for the
// laptop and the node to say the same.
func Remedy(refused error) string {
	switch {
	case errors.Is(refused, ErrNotSIF):
		return "make a SIF image: apptainer build, or apptainer pull"
	case errors.Is(refused, ErrMalformed), errors.Is(refused, ErrAltered):
		return "fetch or build the image again, and have it signed"
	case errors.Is(refused, ErrNoPartition), errors.Is(refused, ErrFileSystem):
		return "make it with apptainer build, which puts one squashfs into it, and have it signed"
	case errors.Is(refused, ErrEncrypted), errors.Is(refused, ErrArchitecture):
		return "build it again, for " + Architecture + " and not as root, and have it signed"
	}
	return "have it signed (apptainer sign) with a key that the cluster accepts"
}
