package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/secret"
)

const testJob = "00112233445566778899aabbccddeeff"

func testManifest(t testing.TB) *Manifest {
	t.Helper()
	jobKey := secret.New(bytes.Repeat([]byte{7}, JobKeySize))
	secrets, err := SealSecrets(testSecrets(), jobKey, testJob)
	if err != nil {
		t.Fatal(err)
	}
	return &Manifest{
		Format: Format, Job: testJob,
		Signer: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
		User:   "alice", Cluster: "demo", Class: ClassDedicated,
		Created: now, Expires: now.AddDate(0, 0, 7),
		Arguments:   []string{"--all", "a <b> & c"},
		Environment: map[string]string{"OMP_NUM_THREADS": "2", "GREETING": "grüß Gott"},
		Stdout:      "/results/slurm-%j.out", Stderr: "/results/slurm-%j.out",
		Volumes: []Volume{
			{Path: "patients.luks", Mount: "/data", Mode: ReadOnly, Label: "patients", Pinned: pinnedReadOnly(t)},
			{Path: "/shared/alice/results.luks", Mount: "/results", Mode: ReadWrite, Create: true, Size: 1 << 30, Label: "results", Pinned: pinnedCreate(t, 1<<30)},
		},
		Image:  &Image{Path: "analysis.sif", SHA256: strings.Repeat("ab", 32), Size: 4096, Mount: "/image.sif"},
		Tokens: []string{"s.first"}, Spare: "s.spare",
		Secrets: secrets, Files: []string{"pem", "api-key"},
	}
}

func testSecrets() *Secrets {
	return &Secrets{Volumes: []VolumeSecret{
		{VolumeKey: secret.New(bytes.Repeat([]byte{1}, 64))},
		{VolumeKey: secret.New(bytes.Repeat([]byte{2}, 64)), KeyslotKey: secret.New(bytes.Repeat([]byte{3}, 32))},
	}, Files: []secret.Bytes{secret.New([]byte("-----BEGIN RSA PRIVATE KEY-----")), secret.New([]byte{0})}}
}

func TestAnImageInAVolumeIsFoundAndAppearsUnderItsNameOrAnother(t *testing.T) {
	m := testManifest(t)
	for _, c := range []struct {
		path, mount, inside, place string
		volume                     int
	}{
		{"analysis.sif", "", "", "/shared/alice/analysis.sif", -1},
		{"/shared/analysis.sif", "", "", "/shared/analysis.sif", -1},
		{"analysis.sif", "/image.sif", "", "/image.sif", -1},
		{"/data/analysis.sif", "", "analysis.sif", "/shared/alice/analysis.sif", 0},
		{"/data/v2/analysis.sif", "", "v2/analysis.sif", "/shared/alice/analysis.sif", 0},
		{"/data/v2.sif", "images/analysis.sif", "v2.sif", "/shared/alice/images/analysis.sif", 0},
		{"/data/v2.sif", "/image.sif", "v2.sif", "/image.sif", 0},
	} {
		m.Image = &Image{Path: c.path, Mount: c.mount}
		if c.volume < 0 {
			m.Image.SHA256, m.Image.Size = strings.Repeat("ab", 32), 4096
		}
		if err := m.Validate(); err != nil {
			t.Errorf("%+v: %v", m.Image, err)
		}
		if i, inside := m.ImageVolume(); i != c.volume || inside != c.inside || m.ImagePlace("/shared/alice") != c.place {
			t.Errorf("%+v: in volume %d as %q, appears at %q", m.Image, i, inside, m.ImagePlace("/shared/alice"))
		}
	}
}

func TestAManifestHasOneEncoding(t *testing.T) {
	line, err := testManifest(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.IndexByte(line, '\n') >= 0 {
		t.Error("more than one line")
	}
	m, err := ParseManifest(line)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(line, again) {
		t.Errorf("\n%s\n%s", line, again)
	}
	s := string(line)
	for name, altered := range map[string]string{
		"unknown field":         `{"more":1,` + s[1:],
		"duplicate field":       replaceOnce(t, s, `"user":"alice",`, `"user":"mallory","user":"alice",`),
		"missing field":         replaceOnce(t, s, `"user":"alice",`, ``),
		"field in another case": replaceOnce(t, s, `"user":`, `"User":`),
		"fields swapped":        replaceOnce(t, s, `"user":"alice","cluster":"demo"`, `"cluster":"demo","user":"alice"`),
		"blank":                 replaceOnce(t, s, `"user":`, `"user": `),
		"blank at the end":      s + " ",
		"second value":          s + s,
		"number in other form":  replaceOnce(t, s, `"format":1,`, `"format":1.0,`),
		"escaped letter":        replaceOnce(t, s, `"alice"`, `"\u0061lice"`),
		"escaped HTML":          replaceOnce(t, s, `<b>`, `\u003cb\u003e`),
		"null for a list":       replaceOnce(t, s, `"arguments":["--all","a <b> & c"]`, `"arguments":null`),
		"other time zone":       strings.Replace(s, `Z","expires"`, `+00:00","expires"`, 1),
		"lower-case time":       strings.Replace(s, `Z","expires"`, `z","expires"`, 1),
		"not UTF-8":             replaceOnce(t, s, `"alice"`, "\"al\xffce\""),
		"map out of order": replaceOnce(t, s, `"GREETING":"grüß Gott","OMP_NUM_THREADS":"2"`,
			`"OMP_NUM_THREADS":"2","GREETING":"grüß Gott"`),
		"line break in base64": replaceOnce(t, s, `"secrets":"`, `"secrets":"\n`),
		"too long":             s + strings.Repeat(" ", MaxManifest),
		"empty":                "",
		"null":                 "null",
		"empty list of files":  replaceOnce(t, s, `"files":["pem","api-key"]`, `"files":[]`),
		"null for files":       replaceOnce(t, s, `"files":["pem","api-key"]`, `"files":null`),
	} {
		if _, err := ParseManifest([]byte(altered)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// spare is the buffer that an encoder of package json gets, in its whole length.
type spare []byte

func (s *spare) Write(b []byte) (int, error) {
	*s = append(*s, b[:cap(b)]...)
	return len(b), nil
}

// Package json keeps its encoders' buffers: a node's next record would be
// written into one, and the tokens behind it stay in memory.
func TestAManifestIsNotLeftInTheBuffersOfPackageJSON(t *testing.T) {
	m := testManifest(t)
	m.Spare = "hvs." + strings.Repeat("spare", 8)
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	found := func(encode func() error) (n int) {
		for range 100 {
			if err := encode(); err != nil {
				t.Fatal(err)
			}
			var b spare
			if err := json.NewEncoder(&b).Encode(0); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte(m.Spare)) {
				n++
			}
		}
		return n
	}
	if n := found(func() error { _, err := m.Marshal(); return err }); n > 0 {
		t.Errorf("a token was in the next encoder's buffer %d times of 100", n)
	}
	if found(func() error { _, err := json.Marshal(m); return err }) == 0 {
		t.Error("without the wiping, too, it was not: this test cannot tell")
	}
}

func TestTheScriptDoesNotKeepTheManifestsText(t *testing.T) {
	const script = "#!/bin/sh\ntrue\n"
	payload, err := Payload(testManifest(t), []byte(script))
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := split(payload)
	if err != nil || string(got) != script {
		t.Fatalf("the script is %q, %v", got, err)
	}
	if len(bytes.Trim(payload, "\x00")) > 0 {
		t.Error("the payload is still there")
	}
}

func TestAManifestThatNobodyShouldMakeIsRefused(t *testing.T) {
	for name, alter := range map[string]func(m *Manifest){
		"format":                      func(m *Manifest) { m.Format = 2 },
		"short job id":                func(m *Manifest) { m.Job = "00" },
		"loud job id":                 func(m *Manifest) { m.Job = strings.ToUpper(m.Job) },
		"MD5 fingerprint":             func(m *Manifest) { m.Signer = "MD5:00" },
		"fingerprint with padding":    func(m *Manifest) { m.Signer += "=" },
		"user with a slash":           func(m *Manifest) { m.User = "../root" },
		"no user":                     func(m *Manifest) { m.User = "" },
		"no cluster":                  func(m *Manifest) { m.Cluster = "" },
		"unknown class":               func(m *Manifest) { m.Class = "any" },
		"expires before it is made":   func(m *Manifest) { m.Expires = m.Created },
		"lives too long":              func(m *Manifest) { m.Expires = m.Created.Add(MaxLifetime + time.Second) },
		"parts of a second":           func(m *Manifest) { m.Created = m.Created.Add(1) },
		"local time":                  func(m *Manifest) { m.Created = m.Created.In(time.FixedZone("x", 3600)) },
		"argument with a NUL":         func(m *Manifest) { m.Arguments = []string{"a\x00b"} },
		"too many arguments":          func(m *Manifest) { m.Arguments = make([]string, MaxArguments+1) },
		"arguments of 44 KiB":         func(m *Manifest) { m.Arguments = slices.Repeat([]string{strings.Repeat("x", MaxArgument)}, 11) },
		"variables of over 40 KiB":    func(m *Manifest) { m.Environment = variables(MaxTogether + 1) },
		"BASH_ENV":                    func(m *Manifest) { m.Environment = map[string]string{"BASH_ENV": "x"} },
		"exported function":           func(m *Manifest) { m.Environment = map[string]string{"BASH_FUNC_ls%%": "() { :; }"} },
		"Slurm's variable":            func(m *Manifest) { m.Environment = map[string]string{"SLURM_JOB_ID": "1"} },
		"variable without a name":     func(m *Manifest) { m.Environment = map[string]string{"": "x"} },
		"variable with =":             func(m *Manifest) { m.Environment = map[string]string{"A=B": "x"} },
		"output outside":              func(m *Manifest) { m.Stdout = "/shared/out" },
		"output on a read-only":       func(m *Manifest) { m.Stdout = "/data/out" },
		"output is the mount point":   func(m *Manifest) { m.Stdout = "/results" },
		"output climbs":               func(m *Manifest) { m.Stdout = "/results/../shared/out" },
		"output next to the volume":   func(m *Manifest) { m.Stdout = "/results-not/out" },
		"output pattern":              func(m *Manifest) { m.Stdout = "/results/%u" },
		"output pattern cut":          func(m *Manifest) { m.Stdout = "/results/%" },
		"no output":                   func(m *Manifest) { m.Stderr = "" },
		"path climbs":                 func(m *Manifest) { m.Volumes[0].Path = "../x.luks" },
		"path not clean":              func(m *Manifest) { m.Volumes[0].Path = "a//b" },
		"path with a line end":        func(m *Manifest) { m.Volumes[0].Path = "a\nb" },
		"no path":                     func(m *Manifest) { m.Volumes[0].Path = "" },
		"volume twice":                func(m *Manifest) { m.Volumes[0].Path = m.Volumes[1].Path },
		"mode":                        func(m *Manifest) { m.Volumes[0].Mode = "wr" },
		"create a read-only":          func(m *Manifest) { m.Volumes[1].Mode = ReadOnly },
		"size without create":         func(m *Manifest) { m.Volumes[0].Size = 1 << 30 },
		"create without size":         func(m *Manifest) { m.Volumes[1].Size = 0 },
		"create with an odd size":     func(m *Manifest) { m.Volumes[1].Size++ },
		"create without limit":        func(m *Manifest) { m.Volumes[1].Size = MaxCreate * 2 },
		"label with an escape":        func(m *Manifest) { m.Volumes[0].Label = "\x1b[2J" },
		"mount in /etc":               func(m *Manifest) { m.Volumes[0].Mount = "/etc/x" },
		"mount nested":                func(m *Manifest) { m.Volumes[0].Mount = "/results/x" },
		"mount twice":                 func(m *Manifest) { m.Volumes[0].Mount = "/results" },
		"image in a volume":           func(m *Manifest) { m.Image.Mount = "/data/image.sif" },
		"image's digest":              func(m *Manifest) { m.Image.SHA256 = strings.Repeat("AB", 32) },
		"image's size":                func(m *Manifest) { m.Image.Size = 0 },
		"image's path":                func(m *Manifest) { m.Image.Path = "" },
		"no token":                    func(m *Manifest) { m.Tokens = nil },
		"no spare":                    func(m *Manifest) { m.Spare = "" },
		"spare is the token":          func(m *Manifest) { m.Spare = m.Tokens[0] },
		"token with a line end":       func(m *Manifest) { m.Tokens[0] = "s.x\n" },
		"token too long":              func(m *Manifest) { m.Tokens[0] = strings.Repeat("x", MaxToken+1) },
		"no secrets":                  func(m *Manifest) { m.Secrets = nil },
		"secrets too long":            func(m *Manifest) { m.Secrets = make([]byte, MaxSecrets+1) },
		"pinned parameters not valid": func(m *Manifest) { m.Volumes[0].Pinned.UUID = "x" },
		"image in a volume, pinned":   func(m *Manifest) { m.Image.Path = "/data/analysis.sif" },
		"image in a volume, sized":    func(m *Manifest) { m.Image.Path, m.Image.SHA256 = "/data/analysis.sif", "" },
		"image in a writable volume":  func(m *Manifest) { m.Image = &Image{Path: "/results/analysis.sif"} },
		"image in no volume":          func(m *Manifest) { m.Image = &Image{Path: "/data2/analysis.sif"} },
		"image is a mount point":      func(m *Manifest) { m.Image = &Image{Path: "/data"} },
		"image climbs out of it":      func(m *Manifest) { m.Image = &Image{Path: "/data/../shared/analysis.sif"} },
		"image's place climbs":        func(m *Manifest) { m.Image.Mount = "../analysis.sif" },
		"image's place is reserved":   func(m *Manifest) { m.Image.Mount = "/usr/analysis.sif" },
		"too many files":              func(m *Manifest) { m.Files = make([]string, MaxFiles+1) },
		"file without a name":         func(m *Manifest) { m.Files = []string{""} },
		"file with a path":            func(m *Manifest) { m.Files = []string{"../step-key"} },
		"file with a dot":             func(m *Manifest) { m.Files = []string{"."} },
		"file twice":                  func(m *Manifest) { m.Files = []string{"pem", "pem"} },
		"files without secrets":       func(m *Manifest) { m.Files, m.Secrets = []string{"pem"}, make([]byte, secretsSize(2, 0)) },
	} {
		m := testManifest(t)
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		alter(m)
		err := m.Validate()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if strings.Contains(err.Error(), "s.first") {
			t.Errorf("%s: the error quotes a token: %v", name, err)
		}
		if _, err := m.Marshal(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestMountPointsStayOutOfTheSystem(t *testing.T) {
	for _, ok := range []string{"/data", "/results/run_1.2", "/mnt/a-b", "/etcetera", "/opt/x"} {
		if err := CheckMount(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"", "data", "/", "//", "/data/", "/data/.", "/data/../etc", "/da ta", "/dátá", "/data\n", "/a%j", "/a:b",
		"/etc", "/etc/x", "/usr", "/usr/bin", "/bin", "/proc/1", "/sys", "/dev/shm", "/run/x", "/tmp", "/var/tmp/x", "/home/alice", "/root", "/lib64",
		"/" + strings.Repeat("a", MaxMount),
	} {
		if err := CheckMount(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if err := CheckMounts([]string{"/data", "/data2", "/mnt/data"}); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]string{{"/a", "/a"}, {"/a", "/a/b"}, {"/a/b/c", "/x", "/a"}} {
		if err := CheckMounts(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestSecretsOpenOnlyWithTheirJobKeyAndForTheirJob(t *testing.T) {
	key := func(b byte) secret.Bytes { return secret.New(bytes.Repeat([]byte{b}, JobKeySize)) }
	sealed, err := SealSecrets(testSecrets(), key(7), testJob)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenSecrets(sealed, key(7), testJob)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range testSecrets().Volumes {
		if !got.Volumes[i].VolumeKey.Equal(want.VolumeKey) || !got.Volumes[i].KeyslotKey.Equal(want.KeyslotKey) {
			t.Errorf("volume %d has other keys", i)
		}
	}
	for i, want := range testSecrets().Files {
		if !got.Files[i].Equal(want) {
			t.Errorf("file %d has another content", i)
		}
	}
	altered := bytes.Clone(sealed)
	altered[len(altered)-1] ^= 1
	other := hex.EncodeToString(make([]byte, 16))
	for name, open := range map[string]func() (*Secrets, error){
		"another key":     func() (*Secrets, error) { return OpenSecrets(sealed, key(8), testJob) },
		"a short key":     func() (*Secrets, error) { return OpenSecrets(sealed, secret.New(make([]byte, 16)), testJob) },
		"another job":     func() (*Secrets, error) { return OpenSecrets(sealed, key(7), other) },
		"altered":         func() (*Secrets, error) { return OpenSecrets(altered, key(7), testJob) },
		"cut":             func() (*Secrets, error) { return OpenSecrets(sealed[:10], key(7), testJob) },
		"beyond the size": func() (*Secrets, error) { return OpenSecrets(make([]byte, MaxSecrets+1), key(7), testJob) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	for name, s := range map[string]*Secrets{
		"short volume key":  {Volumes: []VolumeSecret{{VolumeKey: secret.New(make([]byte, 16))}}},
		"long volume key":   {Volumes: []VolumeSecret{{VolumeKey: secret.New(make([]byte, 200))}}},
		"short keyslot key": {Volumes: []VolumeSecret{{VolumeKey: secret.New(make([]byte, 64)), KeyslotKey: secret.New(make([]byte, 8))}}},
		"too many":          {Volumes: make([]VolumeSecret, MaxVolumes+1)},
		"too many files":    {Files: make([]secret.Bytes, MaxFiles+1)},
		"empty file":        {Files: []secret.Bytes{secret.New(nil)}},
		"long files":        {Files: []secret.Bytes{secret.New(make([]byte, MaxFile)), secret.New([]byte("x"))}},
	} {
		if _, err := SealSecrets(s, key(7), testJob); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	full := &Secrets{}
	for range MaxVolumes {
		full.Volumes = append(full.Volumes, VolumeSecret{VolumeKey: secret.New(make([]byte, MaxVolumeKey)), KeyslotKey: secret.New(make([]byte, KeyslotKeySize))})
	}
	for range MaxFiles - 1 {
		full.Files = append(full.Files, secret.New([]byte("x")))
	}
	full.Files = append(full.Files, secret.New(make([]byte, MaxFile-MaxFiles+1)))
	if b, err := SealSecrets(full, key(7), testJob); err != nil || len(b) > MaxSecrets {
		t.Errorf("the largest secrets: %d bytes, %v", len(b), err)
	}
}

func TestSecretsHaveOneForm(t *testing.T) {
	whole, err := testSecrets().encode()
	if err != nil {
		t.Fatal(err)
	}
	s := string(whole.Reveal())
	if _, err := decodeSecrets([]byte(s)); err != nil {
		t.Fatal(err)
	}
	for i := range s {
		if _, err := decodeSecrets([]byte(s[:i])); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
	}
	for _, bad := range []string{s + " ", " " + s, strings.Replace(s, ",", ", ", 1), strings.Replace(s, "},{", "}{", 1), s[:len(s)-2] + "," + s[len(s)-2:],
		secretsHead + secretsFiles + secretsTail, secretsHead + secretsFiles + `""` + secretsTail, strings.Replace(s, `=="]}`, `"]}`, 1)} {
		if _, err := decodeSecrets([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// variables are some whose names and values have so many bytes together.
func variables(size int) map[string]string {
	env := map[string]string{}
	for i := 0; size > 0; i++ {
		name := fmt.Sprintf("V%05d", i)
		n := min(max(size-len(name), 0), MaxVariable)
		env[name], size = strings.Repeat("x", n), size-len(name)-n
	}
	return env
}

func TestArgumentsAndVariablesOfTheGreatestSizeAreServed(t *testing.T) {
	m := testManifest(t)
	m.Arguments = slices.Repeat([]string{strings.Repeat("x", MaxArgument)}, MaxTogether/MaxArgument)
	m.Environment = variables(MaxTogether)
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}
