package policy

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"cloister/span"
)

// least is the shortest policy that parses; tests change one line of it.
const least = `format = 1
class = "on-demand"
cluster = "lab"
[kms]
address = "https://10.0.0.1"
ca_file = "/etc/cloister/ca.pem"
[slurm]
controllers = ["10.0.0.1"]
`

func example(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../systemd/policy.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheExampleFileParsesAndShowsTheDefaults(t *testing.T) {
	p, err := Parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	d := defaults()
	for _, c := range []struct {
		name     string
		got, def any
	}{
		{"allowed_signers", p.AllowedSigners, d.AllowedSigners},
		{"doors", p.Doors, d.Doors},
		{"volumes", p.Volumes, d.Volumes},
		{"images", p.Images, d.Images},
		{"jobs", p.Jobs, d.Jobs},
		{"slurm.slurmctld_port", p.Slurm.SlurmctldPort, d.Slurm.SlurmctldPort},
		{"slurm.slurmd_port", p.Slurm.SlurmdPort, d.Slurm.SlurmdPort},
		{"slurm.srun_ports", p.Slurm.SrunPorts, d.Slurm.SrunPorts},
		{"network.nfs_port", p.Network.NFSPort, d.Network.NFSPort},
		{"view.hidden", p.View.Hidden, d.View.Hidden},
		{"view.tmp_size", p.View.TmpSize, d.View.TmpSize},
	} {
		if !reflect.DeepEqual(c.got, c.def) {
			t.Errorf("%s: the example has %v, the default is %v", c.name, c.got, c.def)
		}
	}
}

func TestTheExampleFileNamesEveryField(t *testing.T) {
	text := string(example(t))
	var walk func(reflect.Type)
	walk = func(r reflect.Type) {
		for i := range r.NumField() {
			name := r.Field(i).Tag.Get("toml")
			if !strings.Contains(text, "\n"+name+" = ") && !strings.Contains(text, "\n["+name+"]\n") {
				t.Errorf("the example lacks %s", name)
			}
			if f := r.Field(i).Type; strings.Contains(text, "\n["+name+"]\n") {
				walk(f)
			}
		}
	}
	walk(reflect.TypeFor[Policy]())
}

func TestTheShortestPolicyHasTheDocumentedDefaults(t *testing.T) {
	p, err := Parse([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	d := defaults()
	d.Format, d.Class, d.Cluster = 1, OnDemand, "lab"
	d.KMS = KMS{Address: "https://10.0.0.1", CAFile: "/etc/cloister/ca.pem"}
	d.Slurm.Controllers = p.Slurm.Controllers
	if !reflect.DeepEqual(*p, d) {
		t.Errorf("got %+v\nwant %+v", *p, d)
	}
	if e := p.KMS.Endpoints(); len(e) != 1 || e[0].String() != "10.0.0.1:8200" {
		t.Errorf("endpoints %v", e)
	}
}

func TestNoOptionsOfDmCryptIsAnAnswer(t *testing.T) {
	for text, want := range map[string]int{"": 1, "dm_crypt = []": 0, "dm_crypt = [\"no-read-workqueue\", \"no-write-workqueue\", \"discard\"]": 3} {
		p, err := Parse([]byte(least + "[volumes]\n" + text + "\n"))
		if err != nil || len(p.Volumes.DMCrypt) != want {
			t.Errorf("%q: %q, %v", text, p.Volumes.DMCrypt, err)
		}
	}
}

func TestParseRefusesWhatItDoesNotKnowOrCannotMean(t *testing.T) {
	change := func(old, new string) string {
		if !strings.Contains(least, old) {
			t.Fatalf("no %q to change", old)
		}
		return strings.Replace(least, old, new, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"an unknown field", least + "prot = 1\n", "slurm.prot"},
		{"an unknown table", least + "[firewall]\noff = true\n", "firewall"},
		{"a field in capitals", change("class =", "Class ="), "Class"},
		{"the same field in two cases", change("class =", "CLASS = \"dedicated\"\nclass ="), "CLASS"},
		{"a field twice", change("cluster =", "class = \"dedicated\"\ncluster ="), "class"},
		{"no format", change("format = 1\n", ""), "format is missing"},
		{"another format", change("format = 1", "format = 2"), "only 1"},
		{"no class", change("class = \"on-demand\"\n", ""), "class is missing"},
		{"an unknown class", change("on-demand", "shared"), "class is"},
		{"no cluster", change("cluster = \"lab\"\n", ""), "cluster is missing"},
		{"a cluster with a space", change("\"lab\"", "\"my lab\""), "ClusterName"},
		{"fresh boot on a dedicated node", change("class = \"on-demand\"", "class = \"dedicated\"\nrequire_fresh_boot = true"), "require_fresh_boot"},
		{"a KMS without TLS", change("https:", "http:"), "kms.address"},
		{"a KMS with a path", change("10.0.0.1\"", "10.0.0.1/v1\""), "kms.address"},
		{"a KMS with a user", change("10.0.0.1\"", "a@10.0.0.1\""), "kms.address"},
		{"a KMS with a host name and no address", change("10.0.0.1\"", "kms\""), "kms.ips"},
		{"a KMS with an address twice over", change("ca_file", "ips = [\"10.0.0.2\"]\nca_file"), "kms.ips"},
		{"no CA", change("ca_file = \"/etc/cloister/ca.pem\"\n", ""), "kms.ca_file is missing"},
		{"a relative CA", change("/etc/cloister/ca.pem", "ca.pem"), "kms.ca_file"},
		{"a path with ..", change("/etc/cloister/ca.pem", "/etc/../ca.pem"), "kms.ca_file"},
		{"no controller", change("[\"10.0.0.1\"]", "[]"), "slurm.controllers is empty"},
		{"a controller that is a name", change("[\"10.0.0.1\"]", "[\"head\"]"), "controllers"},
		{"a controller that is a network", change("[\"10.0.0.1\"]", "[\"10.0.0.0/24\"]"), "controllers"},
		{"a controller that is everybody", change("[\"10.0.0.1\"]", "[\"0.0.0.0\"]"), "controllers"},
		{"a mapped address", change("[\"10.0.0.1\"]", "[\"::ffff:10.0.0.1\"]"), "controllers"},
		{"an address with a zone", change("[\"10.0.0.1\"]", "[\"fe80::1%eth0\"]"), "controllers"},
		{"an address twice", change("[\"10.0.0.1\"]", "[\"10.0.0.1\", \"10.0.0.1\"]"), "twice"},
		{"port 0", least + "slurmd_port = 0\n", "slurmd_port is 0"},
		{"a port too high", least + "slurmd_port = 70000\n", "slurmd_port"},
		{"ports in the wrong order", least + "srun_ports = \"60010-60001\"\n", "port range"},
		{"every port", least + "srun_ports = \"1024-65535\"\n", "at most 4096"},
		{"privileged ports", least + "srun_ports = \"20-30\"\n", "1024"},
		{"one port", least + "srun_ports = \"60001\"\n", "port range"},
		{"a port with a sign", least + "srun_ports = \"+60001-60010\"\n", "port range"},
		{"doors without ssh", least + "[doors]\nunits = [\"ssh.socket\"]\n", "lacks ssh.service"},
		{"no doors", least + "[doors]\nunits = []\n", "lacks ssh.service"},
		{"slurmd as a door", least + "[doors]\nunits = [\"ssh.service\", \"ssh.socket\", \"slurmd.service\"]\n", "needs itself"},
		{"a glob as a door", least + "[doors]\nunits = [\"ssh.service\", \"ssh.socket\", \"*.service\"]\n", "not the name"},
		{"a path as a door", least + "[doors]\nunits = [\"ssh.service\", \"ssh.socket\", \"/etc/x.service\"]\n", "not the name"},
		{"a volume root of the system", least + "[volumes]\nroots = [\"/etc\"]\n", "node's own"},
		{"the root as a volume root", least + "[volumes]\nroots = [\"/\"]\n", "volumes.roots"},
		{"an unknown option of dm-crypt", least + "[volumes]\ndm_crypt = [\"no_read_workqueue\"]\n", "volumes.dm_crypt: \"no_read_workqueue\" is none of"},
		{"an option of dm-crypt twice", least + "[volumes]\ndm_crypt = [\"discard\", \"discard\"]\n", "twice"},
		{"workqueues chosen twice", least + "[volumes]\ndm_crypt = [\"auto\", \"no-read-workqueue\"]\n", "chooses the workqueues itself"},
		{"options of dm-crypt as a word", least + "[volumes]\ndm_crypt = \"auto\"\n", "volumes.dm_crypt"},
		{"a negative number", least + "[volumes]\nmax_volumes = -1\n", "max_volumes"},
		{"a size without a unit", least + "[volumes]\nmax_create_size = \"20\"\n", "size"},
		{"a size as a number", least + "[volumes]\nmax_create_size = 20\n", "size"},
		{"a size of nothing", least + "[volumes]\nmax_create_size = \"0G\"\n", "size"},
		{"a size that overflows", least + "[volumes]\nmax_create_size = \"9000000T\"\n", "size"},
		{"a duration that overflows", least + "[jobs]\nmax_expiry = \"999999999999d\"\n", "duration"},
		{"an expiry of ten years", least + "[jobs]\nmax_expiry = \"3650d\"\n", "max_expiry"},
		{"images in volumes, half checked", least + "[images]\nin_volumes = \"allowed\"\n", "images.in_volumes"},
		{"hiding /usr", least + "[view]\nhidden = [\"/usr\"]\n", "view.hidden"},
		{"hiding /var", least + "[view]\nhidden = [\"/var\"]\n", "view.hidden"},
		{"a volume root that the view needs", least + "[volumes]\nroots = [\"/opt\"]\n", "volumes.roots: /opt is hidden in the job view"},
		{"a device that is a file", least + "[view]\ndevices = [\"/etc/shadow\"]\n", "view.devices"},
		{"too large", least + strings.Repeat("#", MaxSize), "more than"},
		{"not UTF-8", least + "# \xff\n", "UTF-8"},
		{"not TOML", least + "]", "policy:"},
	} {
		p, err := Parse([]byte(c.text))
		if err == nil {
			t.Errorf("%s: accepted: %+v", c.name, p)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.want)
		}
	}
}

func TestTheKMSIsReachedWithoutAskingForNames(t *testing.T) {
	p, err := Parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	if e := p.KMS.Endpoints(); len(e) != 1 || e[0].String() != "10.77.0.10:8200" {
		t.Errorf("endpoints %v", e)
	}
	v6, err := Parse([]byte(strings.Replace(least, "https://10.0.0.1", "https://[2001:db8::1]:443", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if e := v6.KMS.Endpoints(); len(e) != 1 || e[0].String() != "[2001:db8::1]:443" {
		t.Errorf("endpoints %v", e)
	}
}

func TestAConsoleIsKeptOnlyByLeavingItOut(t *testing.T) {
	if (Doors{Units: DefaultDoors()}).HasConsole() {
		t.Error("the default leaves a console")
	}
	if !(Doors{Units: []string{"ssh.service", "ssh.socket"}}).HasConsole() {
		t.Error("a list without getty@.service closes the console")
	}
}

func TestTheViewHidesWhereVolumesLieToo(t *testing.T) {
	for text, want := range map[string][]string{
		"": {"/shared", "/home", "/scratch"},
		"[volumes]\nroots = [\"/data\", \"/shared/volumes\", \"/home\", \"/homes\"]\n":                                   {"/shared", "/home", "/scratch", "/data", "/homes"},
		"[volumes]\nroots = [\"/data/a\", \"/data\", \"/data/b\", \"/var/volumes\"]\n[view]\nhidden = [\"/data/b/c\"]\n": {"/data/b/c", "/data/a", "/data", "/var/volumes"},
		"[view]\nhidden = []\n": {"/shared"},
	} {
		p, err := Parse([]byte(least + text))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.HiddenInView(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q is hidden, wanted %q", text, got, want)
		}
	}
}

func TestSizesAndDurationsComeBackAsWritten(t *testing.T) {
	for text, want := range map[string]Size{"1K": 1 << 10, "20G": 20 << 30, "3T": 3 << 40, "1536M": 1536 << 20} {
		z, err := ParseSize(text)
		if err != nil || z != want || z.String() != text {
			t.Errorf("%s: %d %q %v", text, z, z, err)
		}
	}
	for text, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "90m": 90 * time.Minute, "1s": time.Second} {
		d, err := span.Parse(text)
		if err != nil || time.Duration(d) != want || d.String() != text {
			t.Errorf("%s: %s %v", text, d, err)
		}
	}
	for _, bad := range []string{"", "G", "-1G", "+1G", "01G", "1.5G", "1GB", "1g", " 1G", "1 G", "1G\n", "0x1G", "1_000K"} {
		if z, err := ParseSize(bad); err == nil {
			t.Errorf("size %q was read as %d", bad, z)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(least))
	f.Add(example(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		// What was accepted can be acted upon.
		if len(p.KMS.Endpoints()) == 0 {
			t.Errorf("no endpoint in %q", p.KMS.Address)
		}
		if err := p.check(); err != nil {
			t.Errorf("accepted, yet %v", err)
		}
	})
}
