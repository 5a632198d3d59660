package sealed

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

func TestASealedJobOpensOnItsNode(t *testing.T) {
	id := newIdentity(t)
	for name, s := range everySigner(t) {
		t.Run(name, func(t *testing.T) {
			file := sealFor(t, s, id.Recipient())
			m, inner, err := roundTrip(file, allow(t, "alice", s), id)
			if err != nil {
				t.Fatal(err)
			}
			if string(inner) != script || m.User != "alice" || len(m.Volumes) != 2 {
				t.Errorf("got %+v and %q", m, inner)
			}
			e, err := Parse(file)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(e.SBATCH(), sbatchLines) {
				t.Errorf("#SBATCH lines %q", e.SBATCH())
			}
		})
	}
}

func TestOneChangedByteAnywhereIsRefused(t *testing.T) {
	id := newIdentity(t)
	for name, s := range everySigner(t) {
		t.Run(name, func(t *testing.T) {
			file := sealFor(t, s, id.Recipient())
			list := allow(t, "alice", s)
			refused := func(altered []byte, what string, i int) {
				t.Helper()
				e, err := Parse(altered)
				if err == nil {
					_, err = e.Verify(list, now)
				}
				if r := (*Refusal)(nil); !errors.As(err, &r) || r.Cause == "" || r.Next == "" {
					t.Fatalf("byte %d of %d (%q) %s: %v", i, len(file), file[i], what, err)
				}
			}
			signature := bytes.Index(file, []byte(sigHeader))
			for i := range file {
				// Only the signature differs with the key: try the rest in
				// full for one type, the slow ones now and then.
				if name != "ed25519" && i < signature && i%97 != 0 {
					continue
				}
				for _, change := range []byte{0x01, 0x20, 0x80} {
					altered := bytes.Clone(file)
					altered[i] ^= change
					refused(altered, "changed", i)
				}
				refused(slices.Delete(bytes.Clone(file), i, i+1), "left out", i)
			}
		})
	}
}

func TestASecondEncodingIsRefused(t *testing.T) {
	id, s := newIdentity(t), newSigner(t)
	file := string(sealFor(t, s, id.Recipient()))
	block := func(width int) string {
		p, _ := pem.Decode([]byte(file[strings.Index(file, sigHeader):]))
		text := base64.StdEncoding.EncodeToString(p.Bytes)
		var b strings.Builder
		b.WriteString(sigHeader)
		for len(text) > width {
			b.WriteString(text[:width] + "\n")
			text = text[width:]
		}
		b.WriteString(text + "\n-----END SSH SIGNATURE-----\n" + terminator + "\n")
		return file[:strings.Index(file, sigHeader)] + b.String()
	}
	if block(64) != file {
		t.Fatal("the test's own encoder is wrong")
	}
	armorEnd := "-----END AGE ENCRYPTED FILE-----\n"
	for name, altered := range map[string]string{
		"CRLF":                           strings.ReplaceAll(file, "\n", "\r\n"),
		"CRLF in the armor":              strings.Replace(file, armorEnd, strings.TrimSpace(armorEnd)+"\r\n", 1),
		"signature in 70 columns":        block(70),
		"byte after the end":             file + "\n",
		"command after the end":          file + "echo unsigned\n",
		"no line end":                    strings.TrimSuffix(file, "\n"),
		"blank line before the armor":    replaceOnce(t, file, "-----BEGIN AGE", "\n-----BEGIN AGE"),
		"blank line after the armor":     replaceOnce(t, file, armorEnd, armorEnd+"\n"),
		"blank in the armor":             replaceOnce(t, file, armorEnd, " "+armorEnd),
		"line between armor and sig":     replaceOnce(t, file, sigHeader, "junk\n"+sigHeader),
		"header in the signature":        replaceOnce(t, file, sigHeader, sigHeader+"Comment: x\n\n"),
		"second signature":               replaceOnce(t, file, terminator+"\n", file[strings.Index(file, sigHeader):]),
		"#SBATCH line after the hint":    replaceOnce(t, file, "exit 78\n", "exit 78\n#SBATCH --uid=0\n"),
		"#SBATCH line in the body":       replaceOnce(t, file, armorEnd, armorEnd+"#SBATCH --uid=0\n"),
		"#PBS line in the body":          replaceOnce(t, file, armorEnd, "#PBS -l nodes=4\n"+armorEnd),
		"comment before the hint":        replaceOnce(t, file, "echo", "# comment\necho"),
		"#SLURM line":                    replaceOnce(t, file, "#SBATCH --secure\n", "#SLURM --secure\n"),
		"word joined to #SBATCH":         replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCHx --secure\n"),
		"tab":                            replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH\t--secure\n"),
		"no-break space of Latin-1":      replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH \xa0hetjob\n"),
		"het job":                        replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH hetjob\n"),
		"het job, old and loud":          replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH   PackJob \n"),
		"het job, second word":           replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH --secure hetjob\n"),
		"het job, colon":                 replaceOnce(t, file, "#SBATCH --secure\n", "#SBATCH --secure : -N2\n"),
		"another shell":                  replaceOnce(t, file, "#!/bin/sh\n", "#!/bin/bash\n"),
		"exit taken out":                 replaceOnce(t, file, "exit 78\n", ""),
		"expiry taken out":               replaceOnce(t, file, testManifest(t).Notice().line()+"\n", ""),
		"another number of arguments":    replaceOnce(t, file, "; arguments ", "; arguments 0"),
		"a command beside the notice":    replaceOnce(t, file, ": 'expires", "id; : 'expires"),
		"no signature":                   file[:strings.Index(file, sigHeader)] + terminator + "\n",
		"here-document not quoted":       replaceOnce(t, file, "'"+terminator+"'", terminator),
		"nothing encrypted":              file[:strings.Index(file, "-----BEGIN AGE")] + file[strings.Index(file, sigHeader):],
		"ends before the last line ends": file[:len(file)-len(terminator)-1],
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(altered)); !errors.Is(err, ErrAltered) && !errors.Is(err, ErrNotSealed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Each of these verifies as the same signature, were it not for
// canonicalSignature.
func TestASecondFormOfTheInnermostSignatureIsRefused(t *testing.T) {
	id := newIdentity(t)
	all := everySigner(t)
	alter := map[string]func(*ssh.Signature){
		"bytes behind": func(s *ssh.Signature) { s.Rest = append(s.Rest, 0) },
	}
	check := func(name string, alter func(*ssh.Signature)) {
		t.Helper()
		e, err := Parse(sealFor(t, all[name], id.Recipient()))
		if err != nil {
			t.Fatal(err)
		}
		alter(e.signature.Signature)
		file, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(file); !errors.Is(err, ErrAltered) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name := range all {
		check(name, alter["bytes behind"])
	}
	for _, name := range []string{"p256", "p384", "p521"} {
		check(name, func(s *ssh.Signature) {
			var n struct{ R, S *big.Int }
			if err := ssh.Unmarshal(s.Blob, &n); err != nil {
				t.Fatal(err)
			}
			long := append([]byte{0, 0}, n.R.Bytes()...)
			s.Blob = ssh.Marshal(struct {
				R []byte
				S *big.Int
			}{long, n.S})
		})
	}
	check("rsa", func(s *ssh.Signature) { s.Blob = s.Blob[1:] })
}

func TestAnOrdinaryScriptIsNotASealedJob(t *testing.T) {
	for _, file := range []string{"", "#!/bin/sh\necho hello\n", strings.Repeat("x", MaxSize+1)} {
		if _, err := Parse([]byte(file)); !errors.Is(err, ErrNotSealed) {
			t.Errorf("%.20q: %v", file, err)
		}
	}
	s := newSigner(t)
	file := sealFor(t, s, newIdentity(t).Recipient())
	next := strings.ReplaceAll(string(file), terminator, marker+"2")
	if _, err := Parse([]byte(next)); !errors.Is(err, ErrNotSealed) || !strings.Contains(err.Error(), "version") {
		t.Errorf("a later format: %v", err)
	}
}

func TestASignatureForAnotherPurposeIsRefused(t *testing.T) {
	id, s := newIdentity(t), newSigner(t)
	good, err := Parse(sealFor(t, s, id.Recipient()))
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseSigners("alice " + string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		namespace string
		hash      sshsig.HashAlgorithm
	}{{"file", sshsig.HashSHA512}, {"git", sshsig.HashSHA512}, {Namespace, sshsig.HashSHA256}} {
		e := *good
		if e.signature, err = sshsig.Sign(bytes.NewReader(e.signed), s, c.hash, c.namespace); err != nil {
			t.Fatal(err)
		}
		file, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Verify(list, now); !errors.Is(err, ErrAltered) {
			t.Errorf("%s, %s: %v", c.namespace, c.hash, err)
		}
	}
}

func TestEncodeRefusesWhatItCannotServe(t *testing.T) {
	s, id := newSigner(t), newIdentity(t)
	to, said := []age.Recipient{id.Recipient()}, testManifest(t).Notice()
	for name, f := range map[string]func() ([]byte, error){
		"het job":       func() ([]byte, error) { return Encode([]string{"#SBATCH hetjob"}, said, nil, to, s) },
		"line end":      func() ([]byte, error) { return Encode([]string{"#SBATCH -n1\n#SBATCH -n2"}, said, nil, to, s) },
		"no recipient":  func() ([]byte, error) { return Encode(nil, said, nil, nil, s) },
		"large payload": func() ([]byte, error) { return Encode(nil, said, make([]byte, MaxPayload+1), to, s) },
		"many lines": func() ([]byte, error) {
			return Encode(slices.Repeat([]string{"#SBATCH -n1"}, MaxSBATCHLines+1), said, nil, to, s)
		},
		"another format's marker": func() ([]byte, error) { return Encode([]string{"#SBATCH # " + marker + "9"}, said, nil, to, s) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// sbatchReads is what sbatch of Slurm 24.11 takes from a script: _opt_batch_script
// of src/sbatch/opt.c, then xlate_batch_script of src/sbatch/xlate.c.
func sbatchReads(file string) (lines []string) {
	for l := range strings.SplitSeq(file, "\n") {
		if strings.HasPrefix(l, "#SBATCH") || strings.HasPrefix(l, "#SLURM") {
			lines = append(lines, l)
		} else if w := strings.TrimSpace(l); w != "" && w[0] != '#' {
			break
		}
	}
	others := 0
	for l := range strings.SplitSeq(file, "\n") {
		if strings.HasPrefix(l, "#BSUB") || strings.HasPrefix(l, "#PBS") {
			lines = append(lines, l)
		} else if !strings.HasPrefix(l, "#") {
			if others++; others > 100 {
				break
			}
		}
	}
	return lines
}

func TestWhatSbatchReadsIsWhatWasSigned(t *testing.T) {
	s := newSigner(t)
	file := sealFor(t, s, newIdentity(t).Recipient())
	if got := sbatchReads(string(file)); !slices.Equal(got, sbatchLines) {
		t.Errorf("sbatch reads %q", got)
	}
	for i, l := range strings.Split(string(file), "\n") {
		if strings.HasPrefix(l, "#") && i > len(sbatchLines) {
			t.Errorf("line %d starts with #: %q", i+1, l)
		}
	}
	// The emulation above must be able to fail.
	if len(sbatchReads("#!/bin/sh\n#SLURM -n1\nx\n#PBS -l nodes=4\n#SBATCH late\n")) != 2 {
		t.Error("the emulation of sbatch reads too little or too much")
	}
}

func TestASealedJobRunAsAnOrdinaryScriptSaysHowToSubmitIt(t *testing.T) {
	file := sealFor(t, newSigner(t), newIdentity(t).Recipient())
	cmd := exec.Command("sh")
	cmd.Stdin = bytes.NewReader(file)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != HintExitStatus {
		t.Errorf("got %v, want exit status %d", err, HintExitStatus)
	}
	if stdout.Len() != 0 || !strings.Contains(stderr.String(), "sbatch --secure") {
		t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
	}
}
