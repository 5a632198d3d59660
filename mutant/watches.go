package mutant

// Defences that check a node and watch over it. Each joins All with the attack
// that shows what happens without it.
const (
	// DoorsWatch closes doors again that were opened during a session and ends
	// new logins; ProcessWatch ends people's processes and SSH servers that
	// come up.
	DoorsWatch   Defence = "doors-watch"
	ProcessWatch Defence = "process-watch"
	// SwapCheck refuses a node with swap; SwapWatch ends the session when swap
	// is switched on in the middle of it.
	SwapCheck Defence = "node-check-swap"
	SwapWatch Defence = "swap-watch"
	// CoreCheck refuses a piped core_pattern; CoreLimit, in C, forbids core
	// files.
	CoreCheck Defence = "node-check-core-pattern"
	CoreLimit Defence = "core-limit"
	// NodeLimits, in C, gives the job the node's resource limits instead of
	// those of the host that it was submitted on.
	NodeLimits Defence = "node-limits"
	// GetEnvCheck refuses a node without GetEnvTimeout=0.
	GetEnvCheck Defence = "node-check-get-env-timeout"
	// RootsSlurmd takes no program of a user's for slurmd, and asks no file for
	// its release that others than root may write, nor as root.
	RootsSlurmd Defence = "roots-slurmd"
	// FreshBoot is the policy's require_fresh_boot.
	FreshBoot Defence = "fresh-boot"
)
