package signing

import (
	"bytes"
	"io"
	"strings"

	"cloister/client/advice"
	"cloister/sealed/signers"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const nextAgent = "start ssh-agent and add the key with ssh-add, or use --key FILE"

// UseAgent makes a configuration that uses a key in the SSH agent: the one with
// that fingerprint ("SHA256:…"), or the only one that can sign jobs if it is "".
// The agent does the signing: a security key's too, with the touch that it asks
// for. certificate is as for UseFile.
func UseAgent(home, user, fingerprint, certificate string) (*Config, error) {
	conn, all, err := agentSigners()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var fit []ssh.PublicKey
	var names []string
	for _, s := range all {
		k := plainKey(s.PublicKey())
		// A certificate comes with its key, and is given as a file.
		if _, ok := k.(*ssh.Certificate); ok || signers.CheckKey(k) != nil {
			continue
		}
		f := ssh.FingerprintSHA256(k)
		if fingerprint == "" || f == fingerprint {
			fit = append(fit, k)
			names = append(names, f)
		}
	}
	switch len(fit) {
	case 0:
		return nil, advice.Refuse(nextAgent, "the SSH agent has no such key that can sign jobs")
	case 1:
	default:
		return nil, advice.Refuse("name one: cloister init --key agent:"+names[0], "the SSH agent has several keys: %s", strings.Join(names, ", "))
	}
	return use(home, newConfig(user, inAgent, "", fit[0]), fit[0], certificate)
}

func openAgent(want ssh.PublicKey) (Signer, error) {
	conn, all, err := agentSigners()
	if err != nil {
		return Signer{}, err
	}
	for _, s := range all {
		if bytes.Equal(s.PublicKey().Marshal(), want.Marshal()) {
			return Signer{s, conn}, nil
		}
	}
	conn.Close()
	return Signer{}, advice.Refuse("add it with ssh-add", "the SSH agent does not hold the signing key %s", ssh.FingerprintSHA256(want))
}

func agentSigners() (io.Closer, []ssh.Signer, error) {
	conn, err := dialAgent()
	if err != nil {
		return nil, nil, advice.Fail(nextAgent, "connecting to the SSH agent: %w", err)
	}
	all, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, nil, advice.Fail(nextAgent, "asking the SSH agent for its keys: %w", err)
	}
	return conn, all, nil
}

// plainKey parses an agent's key, so that it has the methods of its type.
func plainKey(k ssh.PublicKey) ssh.PublicKey {
	if p, err := ssh.ParsePublicKey(k.Marshal()); err == nil {
		return p
	}
	return k
}
