//go:build !windows

package signing

import (
	"errors"
	"net"
	"os"
)

func dialAgent() (net.Conn, error) {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil, errors.New("SSH_AUTH_SOCK is not set")
	}
	return net.Dial("unix", path)
}
