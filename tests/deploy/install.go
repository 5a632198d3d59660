package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/tests/cluster"

	"filippo.io/age"
)

// Classes are those of the two secure nodes.
var Classes = map[string]string{cluster.S1: "dedicated", cluster.S2: "on-demand"}

// Researchers are the test's people. carol has a KMS token, but her key is not
// in the nodes' lists.
var (
	researchers = []string{"alice", "bob", "carol"}
	registered  = []string{"alice", "bob"}
)

// An installer puts Cloister on a bare cluster.
type installer struct {
	*cluster.Cluster
	top, bin string
	laptops  string // one directory a researcher: a CLOISTER_HOME
	keyring  string // public keys that images are signed with
}

func (in *installer) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{in.kms, in.people, in.nodes, in.others, in.restart} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return in.keepLaptops(ctx)
}

// kms sets the key server up on the head node.
func (in *installer) kms(ctx context.Context) error {
	if err := in.put(ctx, cluster.Head, map[string]string{
		filepath.Join(in.bin, "cloister-kms"):                 "/usr/bin/cloister-kms",
		filepath.Join(in.top, "systemd/cloister-kms.service"): "/etc/systemd/system/cloister-kms.service",
	}); err != nil {
		return err
	}
	_, err := in.Output(ctx, cluster.Head, `set -e
cloister-kms init --address head --address `+cluster.Address(cluster.Head)+`
cp /var/lib/cloister-kms/ca.pem /root/kms-ca.pem
systemctl daemon-reload`)
	if err != nil {
		return err
	}
	for _, who := range researchers {
		if _, err := in.Output(ctx, cluster.Head, "cloister-kms user add "+who+" --token-file /root/token-"+who); err != nil {
			return err
		}
		if err := os.MkdirAll(in.home(who), 0o700); err != nil {
			return err
		}
		if err := in.Get(ctx, cluster.Head, "/root/token-"+who, filepath.Join(in.home(who), "kms-token")); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(in.home(who), "kms-token"), 0o600); err != nil {
			return err
		}
	}
	_, err = in.Output(ctx, cluster.Head, "systemctl enable -q --now cloister-kms")
	return err
}

func (in *installer) home(who string) string { return filepath.Join(in.laptops, who) }

// people makes the researchers' keys and the site file.
func (in *installer) people(ctx context.Context) error {
	ca, err := in.Output(ctx, cluster.Head, "cat /root/kms-ca.pem")
	if err != nil {
		return err
	}
	var site strings.Builder
	fmt.Fprintf(&site, "format = 1\ncluster = \"%s\"\n\n[kms]\naddress = \"https://%s:8200\"\nca = \"\"\"\n%s\"\"\"\n",
		clusterName, cluster.Address(cluster.Head), strings.TrimSpace(ca)+"\n")
	for _, node := range []string{cluster.S1, cluster.S2} {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return fmt.Errorf("making a node's identity: %w", err)
		}
		if err := os.WriteFile(in.file("identity-"+node), []byte(id.String()+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&site, "\n[class.%s]\nrecipients = [\"%s\"]\n", Classes[node], id.Recipient())
	}
	if err := os.WriteFile(in.file("site.toml"), []byte(site.String()), 0o644); err != nil {
		return err
	}
	var signers strings.Builder
	for _, who := range researchers {
		l := laptop{bin: in.bin, netns: in.Netns(), home: in.home(who), dir: in.laptops}
		out, err := l.run(ctx, "init", "--user", who)
		if err == nil {
			_, err = l.run(ctx, "site", "add", in.file("site.toml"))
		}
		if err != nil {
			return err
		}
		for _, r := range registered {
			if r == who {
				line, err := signersLine(out)
				if err != nil {
					return err
				}
				// The laptop's own user name is not the cluster's.
				_, rest, _ := strings.Cut(line, " ")
				signers.WriteString(who + " " + rest + "\n")
			}
		}
	}
	return os.WriteFile(in.file("allowed_signers"), []byte(signers.String()), 0o644)
}

// signersLine finds in what init printed the line to give to administrators.
func signersLine(out string) (string, error) {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "namespaces=") && strings.Contains(line, "ssh-ed25519 ") {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("cloister init printed no line for allowed_signers: %q", out)
}

// nodes installs noded, the plugin and their configuration on the secure nodes.
func (in *installer) nodes(ctx context.Context) error {
	for node, class := range Classes {
		if err := os.WriteFile(in.file("policy-"+node), []byte(policyFor(class)), 0o644); err != nil {
			return err
		}
		if err := in.Get(ctx, cluster.Head, "/root/kms-ca.pem", in.file("kms-ca.pem")); err != nil {
			return err
		}
		if _, err := in.Output(ctx, node, "install -d -m 755 /usr/lib/cloister /etc/systemd/system/slurmd.service.d && install -d -m 700 /etc/cloister"); err != nil {
			return err
		}
		if err := in.put(ctx, node, map[string]string{
			filepath.Join(in.bin, "cloister-noded"):                         "/usr/sbin/cloister-noded",
			filepath.Join(in.bin, "cloister"):                               "/usr/bin/cloister",
			filepath.Join(in.bin, "cloister.so"):                            "/usr/lib/cloister/cloister.so",
			filepath.Join(in.bin, "cloister-secure.so"):                     "/usr/lib/cloister/cloister-secure.so",
			filepath.Join(in.top, "systemd/cloister-noded.service"):         "/etc/systemd/system/cloister-noded.service",
			filepath.Join(in.top, "systemd/cloister-noded.socket"):          "/etc/systemd/system/cloister-noded.socket",
			filepath.Join(in.top, "systemd/cloister-release.service"):       "/etc/systemd/system/cloister-release.service",
			filepath.Join(in.top, "systemd/cloister-metrics.socket"):        "/etc/systemd/system/cloister-metrics.socket",
			filepath.Join(in.top, "systemd/slurmd.service.d/cloister.conf"): "/etc/systemd/system/slurmd.service.d/cloister.conf",
			filepath.Join(in.top, "systemd/udev/09-cloister.rules"):         "/etc/udev/rules.d/09-cloister.rules",
			in.file("policy-" + node):                                       "/etc/cloister/policy.toml",
			in.file("allowed_signers"):                                      "/etc/cloister/allowed_signers",
			in.file("identity-" + node):                                     "/etc/cloister/identity",
			in.file("kms-ca.pem"):                                           "/etc/cloister/kms-ca.pem",
			in.keyring:                                                      "/etc/cloister/image-keys.asc",
		}); err != nil {
			return err
		}
		if _, err := in.Output(ctx, node, `set -e
chmod 600 /etc/cloister/identity
echo 'required /usr/lib/cloister/cloister.so node=`+class+`' > /etc/slurm/plugstack.conf
systemctl daemon-reload
udevadm control --reload
systemctl stop slurmd
systemctl enable -q cloister-noded.socket cloister-noded.service
systemctl start cloister-noded.socket cloister-noded.service`); err != nil {
			return errors.Join(err, in.journal(ctx, node))
		}
	}
	return nil
}

func (in *installer) journal(ctx context.Context, node string) error {
	out, _ := in.Output(ctx, node, "journalctl -q --no-pager -n 30 -u cloister-noded -o cat")
	return errors.New("its log ends:\n" + out)
}

// others installs the plugin where jobs are submitted and where ordinary ones
// run.
func (in *installer) others(ctx context.Context) error {
	for _, node := range []string{cluster.Login, cluster.N1} {
		if _, err := in.Output(ctx, node, "install -d -m 755 /usr/lib/cloister"); err != nil {
			return err
		}
		if err := in.put(ctx, node, map[string]string{
			filepath.Join(in.bin, "cloister.so"):        "/usr/lib/cloister/cloister.so",
			filepath.Join(in.bin, "cloister-secure.so"): "/usr/lib/cloister/cloister-secure.so",
		}); err != nil {
			return err
		}
		if _, err := in.Output(ctx, node, "echo 'required /usr/lib/cloister/cloister.so' > /etc/slurm/plugstack.conf"); err != nil {
			return err
		}
	}
	return nil
}

func (in *installer) restart(ctx context.Context) error {
	for _, node := range []string{cluster.S1, cluster.S2, cluster.N1} {
		if _, err := in.Output(ctx, node, "systemctl restart slurmd"); err != nil {
			return err
		}
	}
	return in.WaitIdle(ctx)
}

// keepLaptops leaves the laptops' directories on the head node, so that the
// saved state of the cluster and the keys that belong to it stay together.
func (in *installer) keepLaptops(ctx context.Context) error {
	tarball := in.file("laptops.tar")
	if err := tar(ctx, "-cf", tarball, "-C", in.laptops, "--exclude=laptops.tar", "."); err != nil {
		return err
	}
	return in.Put(ctx, cluster.Head, tarball, laptopsTar, 0o600)
}

const laptopsTar = "/root/laptops.tar"

func (in *installer) file(name string) string { return filepath.Join(in.laptops, name) }

func (in *installer) put(ctx context.Context, node string, files map[string]string) error {
	for local, remote := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(remote, "/usr/") {
			mode = 0o755
		}
		if err := in.Put(ctx, node, local, remote, mode); err != nil {
			return err
		}
	}
	return nil
}

// clusterName is ClusterName in the test cluster's slurm.conf.
const clusterName = "test"

func policyFor(class string) string {
	list := func(nodes ...string) string {
		var ips []string
		for _, n := range nodes {
			ips = append(ips, cluster.Address(n))
		}
		b, _ := json.Marshal(ips)
		return string(b)
	}
	return fmt.Sprintf(`format = 1
class = "%s"
cluster = "%s"

[kms]
address = "https://%s:8200"
ca_file = "/etc/cloister/kms-ca.pem"

[slurm]
controllers = %s
clients = %s

[network]
file_servers = %s
`, class, clusterName, cluster.Address(cluster.Head), list(cluster.Head), list(cluster.Login), list(cluster.Head))
}
