package cluster

import "fmt"

// The nodes of every cluster.
const (
	Head  = "head"  // slurmctld and the file server of /shared
	Login = "login" // where users submit
	S1    = "s1"    // secure node, partition "secure"
	S2    = "s2"    // secure node, partition "secure"
	N1    = "n1"    // ordinary node, partition "batch"
)

// Nodes names all nodes in the order in which they are shown.
var Nodes = []string{Head, Login, S1, S2, N1}

type spec struct {
	Name, Role string
	Address    string // as in guest/files/etc/hosts
	Memory     int    // MiB
}

var specs = []spec{
	{Head, "head", "10.77.0.10", 512},
	{Login, "login", "10.77.0.11", 384},
	{S1, "compute", "10.77.0.12", 900},
	{S2, "compute", "10.77.0.13", 900},
	{N1, "compute", "10.77.0.14", 512},
}

// Address is a node's IPv4 address, the same in every cluster.
func Address(node string) string {
	for _, s := range specs {
		if s.Name == node {
			return s.Address
		}
	}
	return ""
}

// HostAddress is the test host's own address on the cluster's bridge.
func HostAddress() string { return hostAddress }

// slurmNodes are those that Slurm must show as idle before a cluster is handed out.
func slurmNodes() (names []string) {
	for _, s := range specs {
		if s.Role == "compute" {
			names = append(names, s.Name)
		}
	}
	return names
}

// kernelArgs leaves out what costs time under emulation. lsm= leaves AppArmor out. Without no_timer_check a guest on a
// busy host can miss the kernel's test of its timer and panic; panic=-1 ends QEMU then (-no-reboot), which is noticed.
func (s spec) kernelArgs(number int) string {
	args := fmt.Sprintf("console=ttyS0 quiet mitigations=off tsc=reliable audit=0 lsm=landlock,capability,yama no_timer_check panic=-1 "+
		"net.ifnames=0 systemd.show_status=0 systemd.machine_id=%032x systemd.hostname=%s cluster.role=%s",
		0xc1057e0+number, s.Name, s.Role)
	if s.Name == S1 || s.Name == S2 {
		// As docs/admin.md asks of a secure node: what a job had in memory is overwritten once it is freed.
		args += " init_on_free=1"
	}
	return args
}
