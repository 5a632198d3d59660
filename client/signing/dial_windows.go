package signing

import (
	"net"
	"time"

	"github.com/Microsoft/go-winio"
)

// agentPipe is where Windows' own OpenSSH agent listens.
const agentPipe = `\\.\pipe\openssh-ssh-agent`

func dialAgent() (net.Conn, error) {
	timeout := 5 * time.Second
	return winio.DialPipe(agentPipe, &timeout)
}
