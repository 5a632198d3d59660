package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// Parse reads a policy file. It returns an error that names the field for
// anything that it does not know, that is missing, or that cannot be meant.
func Parse(b []byte) (*Policy, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("policy: %d bytes, more than %d", len(b), MaxSize)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("policy: not UTF-8")
	}
	p := defaults()
	md, err := toml.Decode(string(b), &p)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if u := md.Undecoded(); len(u) > 0 {
		return nil, fmt.Errorf("policy: unknown field %s", u[0])
	}
	// The toml package matches names in any case, so Class and class would
	// both be taken and one of them silently lost.
	for _, k := range md.Keys() {
		if s := k.String(); s != strings.ToLower(s) {
			return nil, fmt.Errorf("policy: unknown field %s (names are lower case)", s)
		}
	}
	for _, k := range [][]string{{"format"}, {"class"}, {"cluster"}, {"kms", "address"}, {"kms", "ca_file"}, {"slurm", "controllers"}} {
		if !md.IsDefined(k...) {
			return nil, fmt.Errorf("policy: %s is missing", strings.Join(k, "."))
		}
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return &p, nil
}

var (
	// clusterName is what Slurm accepts for ClusterName, and short.
	clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,39}$`)
	// unitName: the characters of systemd.unit(5), with a suffix of a kind
	// that lets people in. A template may be named, an instance too.
	unitName = regexp.MustCompile(`^[A-Za-z0-9:_.-]{1,100}(@[A-Za-z0-9:_.-]{0,100})?\.(service|socket|timer|path|target)$`)
)

// protected units may not be doors: stopping them stops the node, not a way in.
var protected = []string{"cloister-noded.service", "slurmd.service", "munge.service", "dbus.service", "dbus.socket", "dbus-broker.service", "systemd-logind.service"}

func (p *Policy) check() error {
	if p.Format != Format {
		return fmt.Errorf("format is %d, only %d is known", p.Format, Format)
	}
	if p.Class != Dedicated && p.Class != OnDemand {
		return fmt.Errorf("class is %q, not %q or %q", p.Class, Dedicated, OnDemand)
	}
	if p.RequireFreshBoot && p.Class != OnDemand {
		return errors.New("require_fresh_boot is for on-demand nodes only: a dedicated node runs no other jobs")
	}
	if !clusterName.MatchString(p.Cluster) {
		return fmt.Errorf("cluster is %q, not a Slurm ClusterName", p.Cluster)
	}
	if err := p.KMS.check(); err != nil {
		return err
	}
	if err := p.checkAddresses(); err != nil {
		return err
	}
	if err := p.Doors.check(); err != nil {
		return err
	}
	if err := p.checkPaths(); err != nil {
		return err
	}
	if err := p.Volumes.DMCrypt.check(); err != nil {
		return err
	}
	return p.checkLimits()
}

func (k KMS) check() error {
	u, err := url.Parse(k.Address)
	if err != nil {
		return errors.New("kms.address is not a URL")
	}
	// A comparison with the rebuilt form refuses user names, paths, queries,
	// fragments and whatever else a URL can hide.
	if u.Scheme != "https" || u.Hostname() == "" || k.Address != "https://"+u.Host || u.Port() == "0" || strings.HasSuffix(u.Host, ":") {
		return errors.New("kms.address is not of the form https://host:port")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	switch {
	case err == nil && len(k.IPs) > 0:
		return errors.New("kms.ips is for an address with a host name, kms.address has an IP")
	case err == nil:
		return checkAddr("kms.address", ip)
	case len(k.IPs) == 0:
		return errors.New("kms.ips is missing: a locked node asks no name server for the host of kms.address")
	}
	if strings.Trim(u.Hostname(), "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
		return errors.New("kms.address has a host name that is not plain lower case")
	}
	return nil
}

func (p *Policy) checkAddresses() error {
	if len(p.Slurm.Controllers) == 0 {
		return errors.New("slurm.controllers is empty")
	}
	for _, l := range []struct {
		name  string
		addrs []netip.Addr
	}{
		{"kms.ips", p.KMS.IPs}, {"slurm.controllers", p.Slurm.Controllers}, {"slurm.clients", p.Slurm.Clients}, {"slurm.peers", p.Slurm.Peers},
		{"network.file_servers", p.Network.FileServers}, {"network.dns_servers", p.Network.DNSServers}, {"network.ntp_servers", p.Network.NTPServers},
	} {
		// 1024 of each is more than any list a person keeps up.
		if len(l.addrs) > 1024 {
			return fmt.Errorf("%s has more than 1024 addresses", l.name)
		}
		seen := map[netip.Addr]bool{}
		for _, a := range l.addrs {
			if err := checkAddr(l.name, a); err != nil {
				return err
			}
			if seen[a] {
				return fmt.Errorf("%s has %s twice", l.name, a)
			}
			seen[a] = true
		}
	}
	for _, q := range []struct {
		name string
		port uint16
	}{{"slurm.slurmctld_port", p.Slurm.SlurmctldPort}, {"slurm.slurmd_port", p.Slurm.SlurmdPort}, {"network.nfs_port", p.Network.NFSPort}} {
		if q.port == 0 {
			return fmt.Errorf("%s is 0", q.name)
		}
	}
	// An open range is an open door: SrunPortRange needs a few ports a step.
	if r := p.Slurm.SrunPorts; r.First < 1024 || int(r.Last)-int(r.First) >= 4096 {
		return fmt.Errorf("slurm.srun_ports %s: must start at 1024 or above and have at most 4096 ports", r)
	}
	return nil
}

func checkAddr(field string, a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%s: %q is not the address of one host", field, a)
	}
	return nil
}

func (d Doors) check() error {
	for i, u := range d.Units {
		if !unitName.MatchString(u) || len(u) > 255 {
			return fmt.Errorf("doors.units: %q is not the name of a systemd unit", u)
		}
		if slices.Contains(d.Units[:i], u) {
			return fmt.Errorf("doors.units has %s twice", u)
		}
		if slices.Contains(protected, u) {
			return fmt.Errorf("doors.units has %s, which the node needs itself", u)
		}
	}
	for _, need := range []string{"ssh.service", "ssh.socket"} {
		if !slices.Contains(d.Units, need) {
			return fmt.Errorf("doors.units lacks %s", need)
		}
	}
	return nil
}

func (p *Policy) checkPaths() error {
	files := []struct{ name, path string }{{"allowed_signers", p.AllowedSigners}, {"kms.ca_file", p.KMS.CAFile}, {"images.keys_file", p.Images.KeysFile}}
	for _, f := range files {
		if err := checkPath(f.name, f.path); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		name  string
		paths []string
	}{{"volumes.roots", p.Volumes.Roots}, {"view.hidden", p.View.Hidden}, {"view.devices", p.View.Devices}} {
		if len(l.paths) > 64 {
			return fmt.Errorf("%s has more than 64 paths", l.name)
		}
		for i, d := range l.paths {
			if err := checkPath(l.name, d); err != nil {
				return err
			}
			if slices.Contains(l.paths[:i], d) {
				return fmt.Errorf("%s has %s twice", l.name, d)
			}
		}
	}
	if len(p.Volumes.Roots) == 0 {
		return errors.New("volumes.roots is empty: no job could have a volume")
	}
	for _, r := range p.Volumes.Roots {
		// What lies there is opened with the user's rights, but a volume file
		// belongs on a file system of data, not among the node's own files.
		for _, own := range []string{"/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/usr"} {
			if under(r, own) {
				return fmt.Errorf("volumes.roots: %s is the node's own", r)
			}
		}
	}
	for _, h := range p.HiddenInView() {
		// Those that noded/jobview does not hide.
		for _, own := range []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var"} {
			if !under(own, h) {
				continue
			}
			if slices.Contains(p.View.Hidden, h) {
				return fmt.Errorf("view.hidden: no job runs without the node's %s", own)
			}
			return fmt.Errorf("volumes.roots: %s is hidden in the job view, and no job runs without the node's %s", h, own)
		}
	}
	for _, d := range p.View.Devices {
		if d == "/dev" || !under(d, "/dev") {
			return fmt.Errorf("view.devices: %s is not under /dev", d)
		}
	}
	return nil
}

func checkPath(field, s string) error {
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || len(s) > 4095 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s: %q is not a clean absolute path", field, s)
	}
	return nil
}

func (p *Policy) checkLimits() error {
	for _, l := range []struct {
		name         string
		got, low, up int64
	}{
		{"volumes.max_volumes", int64(p.Volumes.MaxVolumes), 1, 64},
		{"jobs.max_arguments", int64(p.Jobs.MaxArguments), 0, 4096},
		{"jobs.max_environment", int64(p.Jobs.MaxEnvironment), 0, 4096},
	} {
		if l.got < l.low || l.got > l.up {
			return fmt.Errorf("%s is %d, not between %d and %d", l.name, l.got, l.low, l.up)
		}
	}
	if err := p.Jobs.MaxExpiry.CheckMaxExpiry(); err != nil {
		return fmt.Errorf("jobs.%w", err)
	}
	if v := p.Images.InVolumes; v != ImagesPinned && v != ImagesVerified && v != ImagesRefused {
		return fmt.Errorf("images.in_volumes is %q, not %q, %q or %q", v, ImagesPinned, ImagesVerified, ImagesRefused)
	}
	if p.View.TmpSize < 1<<20 {
		return fmt.Errorf("view.tmp_size %s: less than 1M", p.View.TmpSize)
	}
	return nil
}
