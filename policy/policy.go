// Package policy says what a secure node's administrator allows.
//
// It does two things. Parse reads /etc/cloister/policy.toml strictly: an
// unknown, misspelt or missing field is an error, never a default. Admit
// decides, from values alone, whether a sealed job may run here, and says in
// plain words why not and what to do next.
//
// It refuses to act: it opens no file, asks no server and reads no clock.
// What it decides on is handed to it.
package policy

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format is the only policy file format there is.
const Format = 1

// MaxSize is the largest policy file that Parse reads, in bytes. A long one
// has a few kilobytes; the limit keeps a wrong file from being read whole.
const MaxSize = 64 << 10

// A Class is how a node is shared. The sealed job's manifest names the class
// that it accepts, and each class has recipients of its own.
type Class string

// The two classes of docs/threat-model.md.
const (
	// Dedicated nodes are locked from boot on and serve secure jobs only.
	Dedicated Class = "dedicated"
	// OnDemand nodes are locked for a session and serve other jobs between
	// sessions. They do not stand against root steps from before a session.
	OnDemand Class = "on-demand"
)

// A Policy is the whole of policy.toml. systemd/policy.example.toml explains
// the same fields to administrators.
type Policy struct {
	// Format must be 1.
	Format int `toml:"format"`
	// Class of this node: "dedicated" or "on-demand".
	Class Class `toml:"class"`
	// Cluster is the name that manifests are sealed for (ClusterName in
	// slurm.conf): a job sealed for another cluster is refused.
	Cluster string `toml:"cluster"`
	// RequireFreshBoot, on on-demand nodes only: refuse every sealed job once
	// any step without a sealed job ran since the node booted.
	RequireFreshBoot bool `toml:"require_fresh_boot"`
	// AllowedSigners is OpenSSH's ALLOWED SIGNERS file (ssh-keygen(1)); the
	// principals are user names of this node.
	// Default /etc/cloister/allowed_signers.
	AllowedSigners string `toml:"allowed_signers"`

	KMS     KMS     `toml:"kms"`
	Slurm   Slurm   `toml:"slurm"`
	Network Network `toml:"network"`
	Doors   Doors   `toml:"doors"`
	Volumes Volumes `toml:"volumes"`
	Images  Images  `toml:"images"`
	Jobs    Jobs    `toml:"jobs"`
	View    View    `toml:"view"`
}

// KMS is the key management server that holds the job keys.
type KMS struct {
	// Address is an https URL without a path, such as
	// https://kms.example.org:8200. The port is 8200 if none is said (Vault's
	// own default).
	Address string `toml:"address"`
	// IPs that Address stands for. Needed when Address has a host name,
	// because a locked node asks no name server; refused when it has an IP.
	IPs []netip.Addr `toml:"ips"`
	// CAFile holds the PEM certificates that alone may sign the KMS's.
	CAFile string `toml:"ca_file"`
}

// Slurm says where Slurm's own daemons are.
type Slurm struct {
	// Controllers are the addresses of slurmctld, backups included.
	Controllers []netip.Addr `toml:"controllers"`
	// Clients are login nodes whose srun may reach slurmd here and be
	// answered. None by default: sbatch does not need it.
	Clients []netip.Addr `toml:"clients"`
	// Peers are the other secure nodes: slurmd fans messages out over them.
	Peers []netip.Addr `toml:"peers"`
	// SlurmctldPort and SlurmdPort are as in slurm.conf. Default 6817, 6818.
	SlurmctldPort uint16 `toml:"slurmctld_port"`
	SlurmdPort    uint16 `toml:"slurmd_port"`
	// SrunPorts is SrunPortRange of slurm.conf. Default 60001-60010.
	SrunPorts PortRange `toml:"srun_ports"`
}

// Network is what else a locked node may talk to.
type Network struct {
	// FileServers are the NFS servers' addresses. NFS must be version 4.1 or
	// later: older ones call back to the node.
	FileServers []netip.Addr `toml:"file_servers"`
	// NFSPort is the servers' port. Default 2049.
	NFSPort uint16 `toml:"nfs_port"`
	// DNSServers (port 53) and NTPServers (UDP 123). None by default.
	DNSServers []netip.Addr `toml:"dns_servers"`
	NTPServers []netip.Addr `toml:"ntp_servers"`
}

// Doors are the ways into a node that a lock closes.
type Doors struct {
	// Units are systemd units to stop, and keep from starting, until the node is released; a
	// template such as getty@.service means every instance. The default is
	// DefaultDoors; a list of one's own replaces it and must have ssh.service
	// and ssh.socket in it. User managers (user@.service) are always closed.
	Units []string `toml:"units"`
}

// Volumes limits the volumes of a job.
type Volumes struct {
	// Roots are the directories that volume and image files must lie under. They
	// are hidden in the job view like View.Hidden: see Policy.HiddenInView.
	// Default /shared.
	Roots []string `toml:"roots"`
	// MaxVolumes of one job. Default 8.
	MaxVolumes int `toml:"max_volumes"`
	// AllowCreate lets jobs have a results volume made here. Default true.
	AllowCreate bool `toml:"allow_create"`
	// AllowUnauthenticated lets jobs write volumes that are not authenticated:
	// made here with integrity=none, or by cloister volume create. Default true.
	AllowUnauthenticated bool `toml:"allow_unauthenticated"`
	// MaxCreateSize of one such volume. Default 20G.
	MaxCreateSize Size `toml:"max_create_size"`
	// DMCrypt are the options of the volumes' encryption. Default "auto".
	DMCrypt CryptOptions `toml:"dm_crypt"`
}

// Images limits the SIF image of a job.
type Images struct {
	// KeysFile holds the armored OpenPGP and the PEM public keys whose signature
	// an image must carry. Default /etc/cloister/image-keys.asc.
	KeysFile string `toml:"keys_file"`
	// Required refuses jobs without an image. Default false.
	Required bool `toml:"required"`
	// MaxSize of the image file, which is copied into memory; of one in a volume
	// if it is verified. Default 20G.
	MaxSize Size `toml:"max_size"`
	// InVolumes says what holds for an image in a read-only volume of the job:
	// ImagesPinned, ImagesVerified or ImagesRefused. Default ImagesPinned.
	InVolumes string `toml:"in_volumes"`
}

// What can hold for an image in a read-only volume, whose content the sealed
// job's signer pinned by the volume's root hash.
const (
	// ImagesPinned: its table of contents must name an allowed key for each
	// object; that the signatures are good is the signer's word. The same time
	// for every size.
	ImagesPinned = "pinned"
	// ImagesVerified: every byte is read and every signature checked before the
	// job starts.
	ImagesVerified = "verified"
	// ImagesRefused: an image must be a file by itself.
	ImagesRefused = "refused"
)

// Jobs limits the manifest itself.
type Jobs struct {
	// MaxExpiry is the longest time between sealing and expiry. Nodes
	// remember job ids for that long. Default 30d.
	MaxExpiry Duration `toml:"max_expiry"`
	// MaxArguments of the script. Default 64.
	MaxArguments int `toml:"max_arguments"`
	// MaxEnvironment is the number of variables a manifest may set.
	// Default 64.
	MaxEnvironment int `toml:"max_environment"`
}

// View shapes the job view.
type View struct {
	// Hidden directories are empty in the job view, and so are Volumes.Roots.
	// Default /shared, /home, /scratch.
	Hidden []string `toml:"hidden"`
	// TmpSize is the limit of the view's private /tmp, in memory. Default 1G.
	TmpSize Size `toml:"tmp_size"`
	// Devices of the host that the view's /dev has besides null, zero, full,
	// random, urandom, tty, fuse and the pts; /dev/nvidia0 for example. RDMA
	// devices bypass the packet filter. None by default.
	Devices []string `toml:"devices"`
}

// DefaultDoors closes every way by which Debian and its like let a user or an
// administrator start a process: SSH (ssh.service and its aliases, and the
// sockets that systemd 256's systemd-ssh-generator(8) makes), consoles, cron
// and at.
func DefaultDoors() []string {
	return []string{
		"ssh.service", "ssh.socket", "ssh@.service",
		"sshd.service", "sshd.socket", "sshd@.service",
		"sshd-unix-local.socket", "sshd-unix-local@.service",
		"sshd-vsock.socket", "sshd-vsock@.service",
		"getty@.service", "serial-getty@.service", "console-getty.service", "debug-shell.service",
		"cron.service", "crond.service", "atd.service",
	}
}

// defaults is fresh each time: the decoder writes into its slices.
func defaults() Policy {
	return Policy{
		AllowedSigners: "/etc/cloister/allowed_signers",
		Slurm:          Slurm{SlurmctldPort: 6817, SlurmdPort: 6818, SrunPorts: PortRange{60001, 60010}},
		Network:        Network{NFSPort: 2049},
		Doors:          Doors{Units: DefaultDoors()},
		Volumes:        Volumes{Roots: []string{"/shared"}, MaxVolumes: 8, AllowCreate: true, AllowUnauthenticated: true, MaxCreateSize: 20 << 30, DMCrypt: CryptOptions{CryptAuto}},
		Images:         Images{KeysFile: "/etc/cloister/image-keys.asc", MaxSize: 20 << 30, InVolumes: ImagesPinned},
		Jobs:           Jobs{MaxExpiry: Duration(30 * 24 * time.Hour), MaxArguments: 64, MaxEnvironment: 64},
		View:           View{Hidden: []string{"/shared", "/home", "/scratch"}, TmpSize: 1 << 30},
	}
}

// defaultKMSPort is where Vault and OpenBao listen unless told otherwise.
const defaultKMSPort = 8200

// Endpoints are the addresses and the port under which the KMS answers: what
// the packet filter opens and what a client dials instead of asking for names.
func (k KMS) Endpoints() []netip.AddrPort {
	u, err := url.Parse(k.Address)
	if err != nil {
		return nil
	}
	port := uint64(defaultKMSPort)
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return nil
		}
	}
	ips := k.IPs
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		ips = []netip.Addr{ip}
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip, uint16(port)))
	}
	return out
}

// HiddenInView lists the directories that are empty in the job view: those that
// View.Hidden names, and the roots of volumes that are not beneath one of them.
func (p *Policy) HiddenInView() []string {
	hidden := slices.Clone(p.View.Hidden)
	for _, r := range p.Volumes.Roots {
		if !slices.ContainsFunc(hidden, func(h string) bool { return under(r, h) }) {
			hidden = append(hidden, r)
		}
	}
	return hidden
}

// HasConsole reports whether the policy leaves a text console to log in at:
// the administrator's way into a locked node. Root's sessions there are then
// not ended.
func (d Doors) HasConsole() bool {
	closed := map[string]bool{}
	for _, u := range d.Units {
		closed[u] = true
	}
	return !closed["getty@.service"] || !closed["serial-getty@.service"]
}

// under reports whether the clean absolute path p is root or lies below it.
func under(p, root string) bool {
	return p == root || root == "/" || strings.HasPrefix(p, root+"/")
}
