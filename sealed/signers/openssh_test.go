package signers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/softkey"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// The stock ssh-keygen is asked the same as this package: may alice sign the
// message, in the namespace "cloister-job", at noon UTC on 1 June 2026?

const message = "message\n"

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// openssh is a directory with keys, certificates and signatures by them.
type openssh struct{ dir string }

func newOpenSSH(t *testing.T) openssh {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Fatal("install openssh-client: this test compares with the stock ssh-keygen")
	}
	return openssh{t.TempDir()}
}

func (o openssh) file(name string) string { return filepath.Join(o.dir, name) }

func (o openssh) keygen(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

// key makes a key and returns its line without the comment.
func (o openssh) key(t *testing.T, name string, args ...string) string {
	t.Helper()
	o.keygen(t, append(args, "-q", "-N", "", "-C", "", "-f", o.file(name))...)
	return strings.TrimSpace(o.read(t, name+".pub"))
}

func (o openssh) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(o.file(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (o openssh) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(o.file(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sign signs the message with the stock command.
func (o openssh) sign(t *testing.T, name string) {
	t.Helper()
	o.write(t, "message", message)
	o.keygen(t, "-q", "-Y", "sign", "-n", "cloister-job", "-f", o.file(name), o.file("message"))
	if err := os.Rename(o.file("message.sig"), o.file(name+".sig")); err != nil {
		t.Fatal(err)
	}
}

// certify makes a certificate for a key of that name and signs with it.
func (o openssh) certify(t *testing.T, authority, name string, args ...string) {
	t.Helper()
	o.key(t, name, "-t", "ed25519")
	o.keygen(t, append([]string{"-q", "-s", o.file(authority), "-I", name}, append(args, o.file(name+".pub"))...)...)
	o.sign(t, name+"-cert.pub")
}

// theirs is the stock command's answer.
func (o openssh) theirs(t *testing.T, list, signature, zone string) (accepted bool, output string) {
	t.Helper()
	o.write(t, "allowed", list)
	cmd := exec.Command("ssh-keygen", "-Y", "verify", "-O", "verify-time="+noon.Format("20060102150405")+"Z",
		"-f", o.file("allowed"), "-I", "alice", "-n", "cloister-job", "-s", o.file(signature))
	cmd.Env = append(os.Environ(), "TZ="+zone)
	cmd.Stdin = strings.NewReader(message)
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

// ours is this package's, of the same signature.
func (o openssh) ours(t *testing.T, list, signature, zone string) (bool, error) {
	t.Helper()
	where, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sshsig.Unarmor([]byte(o.read(t, signature)))
	if err != nil {
		t.Fatal(err)
	}
	if err := sshsig.Verify(strings.NewReader(message), s, s.PublicKey, s.HashAlgorithm, "cloister-job"); err != nil {
		return false, err
	}
	l, err := parse([]byte(list), where)
	if err != nil {
		return false, err
	}
	p, err := l.Find(s.PublicKey, "cloister-job", noon)
	return p.Include("alice"), err
}

// A decision is what both must say of a file, or that we alone refuse.
type decision string

const (
	accepted decision = "accepted"
	refused  decision = "refused"
	stricter decision = "accepted by ssh-keygen alone" // see the package comment
)

func (o openssh) compare(t *testing.T, list, signature, zone string, want decision) {
	t.Helper()
	theirs, output := o.theirs(t, list, signature, zone)
	ours, err := o.ours(t, list, signature, zone)
	if theirs != (want != refused) || ours != (want == accepted) {
		t.Errorf("%s, %s: %.150q: want %s; ssh-keygen accepts: %v, we: %v, %v\n%s", signature, zone, list, want, theirs, ours, err, output)
	}
}

func TestStockSSHKeygenDecidesTheSame(t *testing.T) {
	o := newOpenSSH(t)
	key := o.key(t, "key", "-t", "ed25519")
	other := o.key(t, "other", "-t", "ed25519")
	o.sign(t, "key")
	for _, c := range []struct {
		form string // of the file; %s is the key
		want decision
	}{
		{"alice %s", accepted},
		{"\talice\t%s comment with blanks", accepted},
		{"alice %s\r", accepted},
		{"# comment\n\n  \t\nalice %s", accepted},
		{"#alice %s", refused},
		{"bob %s", refused},
		{"alice,bob %s", accepted},
		{"bob,alice %s", accepted},
		{"alice,,bob %s", accepted},
		{"bob, alice %s", refused},
		{`"alice" %s`, accepted},
		{`"bob,alice" %s`, accepted},
		{`"bob, alice" %s`, refused},
		{`al"ice" %s`, accepted},
		{`"alice"%s`, accepted},
		{`"alice %s`, refused},
		{`"alice",bob %s`, refused},
		{`"alice" "bob" %s`, refused},
		{"* %s", accepted},
		{"al* %s", accepted},
		{"al?ce %s", accepted},
		{"al?e %s", refused},
		{"ALICE %s", refused},
		{"!alice,* %s", refused},
		{"*,!alice %s", refused},
		{"*,!bob %s", accepted},
		{"!bob %s", refused},
		{"!bob,* %s\n", accepted},
		{"bob %s\nalice %[1]s", accepted},
		{"!alice,* %s\nal* %[1]s", accepted},
		{"alice " + other + "\nalice %s", accepted},
		{"alice " + other, refused},

		{`alice namespaces="cloister-job" %s`, accepted},
		{`alice NameSpaces="git,cloister-job" %s`, accepted},
		{`alice namespaces="git" %s`, refused},
		{`alice namespaces="" %s`, refused},
		{`alice namespaces="cloister-*" %s`, accepted},
		{`alice namespaces="*,!cloister-job" %s`, refused},
		{`alice namespaces="git, cloister-job" %s`, refused},
		{`alice namespaces="a b,cloister-job" %s`, accepted},
		{`alice namespaces="a\"b,cloister-job" %s`, accepted},
		{`alice namespaces="a\\,cloister-job" %s`, accepted},
		{`alice namespaces="cloister-job\" %s`, refused},
		{`alice namespaces="cloister-job" namespaces="git" %s`, refused},
		{`alice namespaces="git" %s` + "\n" + `alice namespaces="cloister-job" %[1]s`, accepted},
		{`alice namespaces="a",namespaces="cloister-job" %s`, refused},
		{`alice namespaces=cloister-job %s`, refused},
		{`alice namespaces %s`, refused},
		{`alice ,namespaces="cloister-job" %s`, accepted},
		{`alice namespaces="cloister-job",,valid-after="20200101" %s`, accepted},
		{`alice namespaces="cloister-job", %s`, refused},
		{`alice , %s`, refused},
		{`alice no-touch-required %s`, refused},
		{`alice namespaces="cloister-job"x %s`, refused},
		{`alice cert-authority %s`, refused},
		{`alice CERT-AUTHORITY,cert-authority %s`, refused},
		{`alice cert-authority2 %s`, refused},

		{`alice valid-after="20260601Z" %s`, accepted},
		{`alice valid-after="202606011200Z" %s`, accepted},
		{`alice valid-after="20260601120000z" %s`, accepted},
		{`alice valid-after="20260601120000UTC" %s`, accepted},
		{`alice valid-after="20260601120000utc" %s`, accepted},
		{`alice valid-after="20260601120001Z" %s`, refused},
		{`alice valid-before="20260601120000Z" %s`, accepted},
		{`alice valid-before="20260601115959Z" %s`, refused},
		{`alice valid-before="20260601Z",valid-after="20200101" %s`, refused},
		{`alice valid-after="20200101",valid-before="20300101",namespaces="cloister-job" %s`, accepted},
		{`alice valid-after="20300101",valid-before="20200101" %s`, refused},
		{`alice valid-after="20200101",valid-before="20200101" %s`, refused},
		{`alice valid-after="20200101",valid-after="20200101" %s`, refused},
		{`alice valid-after="" %s`, refused},
		{`alice valid-after="Z" %s`, refused},
		{`alice valid-after="20201301" %s`, refused},
		{`alice valid-after="2020010112" %s`, refused},
		{`alice valid-after="2020-01-01" %s`, refused},
		{`alice valid-after="19700101Z" %s`, refused},
		{`alice valid-after="19690101Z" %s`, refused},

		{"alice", refused},
		{"alice ssh-ed25519", refused},
		{"alice ssh-ed25519 AAAA", refused},
		{"alice ssh-rsa " + strings.Fields(key)[1], refused},
		{"", refused},

		{"älice,alice %s", stricter},
		{"nonsense\nalice %s", stricter},
		{"alice %s\nalice valid-after=never %[1]s", stricter},
		{`alice valid-after="20200231" %s`, stricter},
		{`alice valid-after="2020 1 1" %s`, stricter},
		{"alice %s comment with \x01", stricter},
	} {
		list := c.form
		if strings.Contains(list, "%s") {
			list = fmt.Sprintf(list, key)
		}
		o.compare(t, list, "key.sig", "UTC", c.want)
	}
}

func TestALocalTimeMeansWhatItMeansToSSHKeygen(t *testing.T) {
	o := newOpenSSH(t)
	key := o.key(t, "key", "-t", "ed25519")
	o.sign(t, "key")
	seen := map[decision]int{}
	for _, zone := range []string{"UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo"} {
		where, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		local := noon.In(where)
		for _, off := range []time.Duration{-2 * time.Hour, -time.Hour, -time.Second, 0, time.Second, 30 * time.Minute, time.Hour, time.Hour + time.Second} {
			list := fmt.Sprintf("alice valid-after=%q %s", local.Add(off).Format("20060102150405"), key)
			want := refused
			if ok, _ := o.theirs(t, list, "key.sig", zone); ok {
				want = accepted
			}
			seen[want]++
			o.compare(t, list, "key.sig", zone, want)
		}
	}
	if seen[accepted] == 0 || seen[refused] == 0 {
		t.Errorf("the times were %v: they tell nothing apart", seen)
	}
}

func TestSSHKeygenVerifiesEveryKindOfKeyThatWeDo(t *testing.T) {
	o := newOpenSSH(t)
	keys := map[string]string{}
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "ecdsa256": {"-t", "ecdsa", "-b", "256"}, "ecdsa384": {"-t", "ecdsa", "-b", "384"},
		"ecdsa521": {"-t", "ecdsa", "-b", "521"}, "rsa2048": {"-t", "rsa", "-b", "2048"}, "rsa1024": {"-t", "rsa", "-b", "1024"},
	} {
		keys[name] = o.key(t, name, args...)
		o.sign(t, name)
	}
	// No security key is at hand: theirs are made in software, and verified by
	// the stock command.
	for name, make := range map[string]struct {
		kind  string
		flags byte
	}{
		"sk-ed25519": {ssh.KeyAlgoSKED25519, softkey.Touched}, "sk-ecdsa": {ssh.KeyAlgoSKECDSA256, softkey.Touched},
		"sk-verified":  {ssh.KeyAlgoSKED25519, softkey.Touched | softkey.Verified},
		"sk-untouched": {ssh.KeyAlgoSKED25519, 0}, "sk-ecdsa-untouched": {ssh.KeyAlgoSKECDSA256, 0},
	} {
		k, err := softkey.New(make.kind)
		if err != nil {
			t.Fatal(err)
		}
		k.Flags = make.flags
		s, err := sshsig.Sign(strings.NewReader(message), k, sshsig.HashSHA512, "cloister-job")
		if err != nil {
			t.Fatal(err)
		}
		o.write(t, name+".sig", string(sshsig.Armor(s)))
		keys[name] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	}
	alone := []string{"rsa1024", "sk-untouched", "sk-ecdsa-untouched"}
	for name, key := range keys {
		want := accepted
		if slices.Contains(alone, name) {
			want = stricter
		}
		o.compare(t, "alice "+key, name+".sig", "UTC", want)
		o.compare(t, "bob "+key, name+".sig", "UTC", refused)
		o.compare(t, "alice "+keys["ed25519"], name+".sig", "UTC", map[bool]decision{true: accepted, false: refused}[name == "ed25519"])
		// A signature of another message.
		s, err := sshsig.Unarmor([]byte(o.read(t, name+".sig")))
		if err != nil {
			t.Fatal(err)
		}
		s.Signature.Blob = bytes.Clone(s.Signature.Blob)
		s.Signature.Blob[len(s.Signature.Blob)-1] ^= 1
		o.write(t, "bad.sig", string(sshsig.Armor(s)))
		o.compare(t, "alice "+key, "bad.sig", "UTC", refused)
	}
}

func TestSSHKeygenTakesTheSameCertificates(t *testing.T) {
	o := newOpenSSH(t)
	ca, stranger := o.key(t, "ca", "-t", "ed25519"), o.key(t, "stranger", "-t", "ed25519")
	rsaCA := o.key(t, "rsaca", "-t", "rsa", "-b", "2048")
	at := func(d time.Duration) string { return noon.Add(d).Format("20060102150405") + "Z" }
	always := at(-time.Hour) + ":" + at(time.Hour)
	for name, args := range map[string][]string{
		"good":     {"-n", "alice,carol", "-V", always},
		"bobs":     {"-n", "bob", "-V", always},
		"pattern":  {"-n", "al*", "-V", always},
		"nobodys":  {"-V", always},
		"host":     {"-h", "-n", "alice", "-V", always},
		"early":    {"-n", "alice", "-V", at(time.Second) + ":" + at(time.Hour)},
		"first":    {"-n", "alice", "-V", at(0) + ":" + at(time.Hour)},
		"late":     {"-n", "alice", "-V", at(-time.Hour) + ":" + at(0)},
		"last":     {"-n", "alice", "-V", at(-time.Hour) + ":" + at(time.Second)},
		"forced":   {"-n", "alice", "-V", always, "-O", "force-command=ls"},
		"critical": {"-n", "alice", "-V", always, "-O", "critical:x@example.org=1"},
	} {
		o.certify(t, "ca", name, args...)
	}
	o.certify(t, "rsaca", "sha2", "-n", "alice", "-V", always)
	o.certify(t, "rsaca", "sha1", "-t", "ssh-rsa", "-n", "alice", "-V", always)
	plain := strings.TrimSpace(o.read(t, "good.pub"))
	certificate := strings.TrimSpace(o.read(t, "good-cert.pub"))
	for _, c := range []struct {
		list, name string
		want       decision
	}{
		{"alice cert-authority " + ca, "good", accepted},
		{"a*,bob cert-authority " + ca, "good", accepted},
		{"* cert-authority,namespaces=\"cloister-job\" " + ca, "good", accepted},
		{"* namespaces=\"git\",cert-authority " + ca, "good", refused},
		{"!alice,* cert-authority " + ca, "good", refused},
		{"carol cert-authority " + ca, "good", refused},
		{"alice cert-authority " + stranger, "good", refused},
		{"alice " + ca, "good", refused},
		{"alice " + plain, "good", refused},
		{"alice cert-authority " + plain, "good", refused},
		{"alice cert-authority,valid-before=\"20260601115959Z\" " + ca, "good", refused},
		{"alice cert-authority " + stranger + "\nalice cert-authority " + ca, "good", accepted},
		{"* cert-authority " + ca, "bobs", refused},
		{"* cert-authority " + ca, "pattern", refused},
		{"* cert-authority " + ca, "nobodys", refused},
		{"alice cert-authority " + ca, "host", refused},
		{"alice cert-authority " + ca, "early", refused},
		{"alice cert-authority " + ca, "first", accepted},
		{"alice cert-authority " + ca, "late", refused},
		{"alice cert-authority " + ca, "last", accepted},
		{"alice cert-authority " + rsaCA, "sha2", accepted},
		{"alice cert-authority " + rsaCA, "sha1", stricter},
		{"alice cert-authority " + ca, "forced", stricter},
		{"alice cert-authority " + ca, "critical", stricter},
		{"alice " + certificate, "good", stricter},
	} {
		o.compare(t, c.list, c.name+"-cert.pub.sig", "UTC", c.want)
	}
	// One bit of the authority's signature.
	s, err := sshsig.Unarmor([]byte(o.read(t, "good-cert.pub.sig")))
	if err != nil {
		t.Fatal(err)
	}
	s.PublicKey.(*ssh.Certificate).Signature.Blob[3] ^= 1
	o.write(t, "forged.sig", string(sshsig.Armor(s)))
	o.compare(t, "alice cert-authority "+ca, "forged.sig", "UTC", refused)
}

func TestFindNamesThePrincipalsThatSSHKeygenFinds(t *testing.T) {
	o := newOpenSSH(t)
	key, ca := o.key(t, "key", "-t", "ed25519"), o.key(t, "ca", "-t", "ed25519")
	o.sign(t, "key")
	o.certify(t, "ca", "user", "-n", "alice,alan,bob")
	for _, c := range []struct{ list, signature string }{
		{"alice " + key, "key.sig"},
		{"alice,bob " + key, "key.sig"},
		{"al*,bob " + key, "key.sig"},
		{"bob " + ca, "key.sig"},
		{"al* cert-authority " + ca, "user-cert.pub.sig"},
		{"carol cert-authority " + ca, "user-cert.pub.sig"},
	} {
		o.write(t, "allowed", c.list)
		out, err := exec.Command("ssh-keygen", "-Y", "find-principals", "-f", o.file("allowed"), "-s", o.file(c.signature)).Output()
		// One line for each, or one line with commas, as the release likes.
		theirs := strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' || r == ',' })
		slices.Sort(theirs)
		l, perr := Parse([]byte(c.list))
		s, serr := sshsig.Unarmor([]byte(o.read(t, c.signature)))
		if perr != nil || serr != nil {
			t.Fatal(perr, serr)
		}
		ours, _ := l.Find(s.PublicKey, "cloister-job", time.Now())
		if ours.String() != strings.Join(theirs, ", ") {
			t.Errorf("%.60q: ssh-keygen finds %q (%v), we %q", c.list, theirs, err, ours)
		}
	}
}
