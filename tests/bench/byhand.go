package main

import (
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"cloister/client/keystore"
	"cloister/tests/cluster"
	"cloister/volume"
)

// byHandScript is run on the node as it is.
//
//go:embed by-hand.sh
var byHandScript string

const (
	byHandDir = "/root/by-hand"
	// Both files lie on the same file server as the job's. Root on a node is
	// nobody there, so the one is readable and the other made by everybody.
	byHandIn  = "/shared/scratch/by-hand-in.luks"
	byHandOut = "/shared/scratch/by-hand-out.luks"
	// resultsSize behind the header that cryptsetup makes by itself, 16 MiB.
	byHandOutSize = "48M"
)

// byHand is one run of the script, in seconds.
type byHand struct {
	steps           []step // in their order
	first, released float64
}

type step struct {
	name string
	took float64
}

// prepareByHand puts on the node what the script starts from. None of it is
// timed, as sealing is not.
func (b *bench) prepareByHand(ctx context.Context) error {
	rules, err := b.ruleset(ctx)
	if err != nil {
		return err
	}
	data, err := b.dataVolume()
	if err != nil {
		return err
	}
	defer data.Keys.Wipe()
	if data.Pinned.Verity == nil {
		return fmt.Errorf("%s has no hash tree", dataName)
	}
	if _, err := b.Output(ctx, cluster.Head, fmt.Sprintf("cp %s/%s %s && chmod 644 %[3]s", home, dataName, byHandIn)); err != nil {
		return err
	}
	uid, err := b.Output(ctx, node, "install -d -m 700 "+byHandDir+" && id -u "+who)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"by-hand.sh": byHandScript,
		"rules.nft":  rules,
		"job.sh":     "echo \"$EPOCHREALTIME\"\nset -e\ntest -s /mnt/data/data.txt\n: >/mnt/results/written\n",
	} {
		if err := b.putText(ctx, name, text); err != nil {
			return err
		}
	}
	if err := b.Put(ctx, node, b.vault, byHandDir+"/vault", 0o755); err != nil {
		return err
	}
	// Keys of gpg's default kind. The user's private one lies elsewhere.
	signer, err := b.Output(ctx, node, `set -e
cd `+byHandDir+`
chmod 755 by-hand.sh
install -d -m 700 gnupg laptop
key() { gpg --homedir "$1" --batch --quiet --passphrase '' --quick-generate-key "$2" default default never; }
key gnupg node
key laptop `+who+`
gpg --homedir gnupg --batch --export node | gpg --homedir laptop --batch --quiet --import
gpg --homedir laptop --batch --export `+who+` | gpg --homedir gnupg --batch --quiet --import
gpg --homedir laptop --batch --quiet --trust-model always --local-user `+who+` --recipient node --sign --encrypt --output payload.gpg job.sh
gpg --homedir laptop --batch --with-colons --list-keys `+who+` | awk -F: '$1 == "fpr" { print $10; exit }'
gpgconf --homedir laptop --kill all
rm -r laptop job.sh`)
	if err != nil {
		return err
	}
	return b.putText(ctx, "by-hand.env", environment(strings.TrimSpace(uid), strings.TrimSpace(signer), data.Pinned))
}

func (b *bench) putText(ctx context.Context, name, text string) error {
	_, err := b.Output(ctx, node, "cat > "+byHandDir+"/"+name, cluster.Stdin([]byte(text)))
	return err
}

// dataVolume is what the researcher's laptop keeps of the volume for reading.
func (b *bench) dataVolume() (keystore.Volume, error) {
	all, err := keystore.In(filepath.Dir(b.SigningKey(who))).Named(dataName)
	if err != nil {
		return keystore.Volume{}, err
	}
	if len(all) != 1 {
		return keystore.Volume{}, fmt.Errorf("the laptop has %d volumes named %s", len(all), dataName)
	}
	return all[0], nil
}

// environment is by-hand.env.
func environment(uid, signer string, p volume.Pinned) string {
	return fmt.Sprintf(`user_id=%s
signer=%s
kms=%s
in_file=%s
payload_offset=%d
payload_size=%d
data_blocks=%d
hash_offset=%d
salt=%s
root_hash=%s
out_file=%s
out_size=%s
`, uid, signer, kmsAddress, byHandIn, p.PayloadOffset, p.PayloadSize, p.PayloadSize/p.Verity.DataBlockSize,
		p.Verity.HashOffset, p.Verity.Salt, p.Verity.RootHash, byHandOut, byHandOutSize)
}

var wrappingToken = regexp.MustCompile(`"token":"([^"]+)"`)

// wrapKeys puts both keys behind a fresh wrapping token, as sealing does, and
// leaves the token on the node.
func (b *bench) wrapKeys(ctx context.Context) error {
	data, err := b.dataVolume()
	if err != nil {
		return err
	}
	defer data.Keys.Wipe()
	body, err := json.Marshal(map[string]string{
		"in": base64.StdEncoding.EncodeToString(data.Keys.VolumeKey.Reveal()),
		// Any 64 bytes do for a volume that is thrown away.
		"out": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("bench-32", 8))),
	})
	if err != nil {
		return err
	}
	out, err := b.Output(ctx, cluster.Head, fmt.Sprintf(`set -e
body=$(cat)
printf 'POST /v1/sys/wrapping/wrap HTTP/1.1\r\nHost: %[1]s\r\nX-Vault-Token: %%s\r\nX-Vault-Wrap-TTL: 600\r\nContent-Length: %%d\r\nConnection: close\r\n\r\n%%s' \
	"$(cat /root/token-%[2]s)" "${#body}" "$body" |
	openssl s_client -quiet -verify_quiet -verify_return_error -CAfile /root/kms-ca.pem -connect %[1]s`, kmsAddress, who), cluster.Stdin(body))
	if err != nil {
		return err
	}
	m := wrappingToken.FindStringSubmatch(out)
	if m == nil {
		return errors.New("wrapping the keys for the script by hand: the KMS gave no token")
	}
	return b.putText(ctx, "token", m[1])
}

// byHand runs the script once on the idle node.
func (b *bench) byHand(ctx context.Context) (h byHand, err error) {
	if err := b.wrapKeys(ctx); err != nil {
		return h, err
	}
	out, err := b.Output(ctx, node, byHandDir+"/by-hand.sh")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return h, fmt.Errorf("by-hand.sh printed %q", line)
		}
		us, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return h, fmt.Errorf("by-hand.sh printed %q: %w", line, err)
		}
		switch name, took := line[:at], us/1e6; name {
		case "first-instruction":
			h.first = took
		case "release":
			h.released = took
		default:
			h.steps = append(h.steps, step{name, took})
		}
	}
	if h.first == 0 || h.released == 0 {
		return h, fmt.Errorf("by-hand.sh did not come to its end: %q", out)
	}
	return h, nil
}
