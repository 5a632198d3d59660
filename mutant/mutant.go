// Package mutant lets a test build take out one defence at a time, to show
// that a test then fails.
//
// A release build has no way to take anything out: Removed is a constant
// false there and the compiler drops the branch. Only the build tag `mutants`
// compiles the other half, which marks the binary with Mark; tests/release
// proves that release binaries lack that mark.
package mutant

// A Defence is one that `make attacks` takes out. The value is the word that
// the mutants file holds.
type Defence string

// The defences of docs/threat-model.md that have a mutant.
const (
	SignatureCheck   Defence = "signature-check"
	SignerBinding    Defence = "signer-user-binding"
	SingleUse        Defence = "single-use"
	StopSSH          Defence = "sshd-stop"
	DefaultDrop      Defence = "default-drop"
	PinnedHeader     Defence = "pinned-header"
	NoexecParent     Defence = "noexec-parent"
	CleanEnvironment Defence = "clean-environment"
	StepProof        Defence = "step-proof"
	SocketRootOnly   Defence = "socket-root-only"
	NoClients        Defence = "no-clients-in-session"

	OutputInVolume Defence = "output-in-volume"
	PolicyRoots    Defence = "policy-roots"
	UserRights     Defence = "user-rights"
	RegularFiles   Defence = "regular-files"
	MountPoints    Defence = "mount-points"
	VolumeAttrs    Defence = "volume-nosuid-nodev"
	OwnerMap       Defence = "volume-owner-map"
	NoNewPrivs     Defence = "no-new-privs"
	Verity         Defence = "verity"
	ImageDigest    Defence = "image-digest"
	ImageSignature Defence = "image-signature"

	CanonicalEncoding  Defence = "canonical-encoding"
	EmptyInput         Defence = "empty-input"
	Expiry             Defence = "expiry"
	OneComponent       Defence = "one-component"
	OwnUserDatabase    Defence = "own-user-database"
	Place              Defence = "place"
	PrivateDirectories Defence = "private-directories"
	RegisteredSigner   Defence = "registered-signer"
	SealedArguments    Defence = "sealed-arguments"
	SignatureNamespace Defence = "signature-namespace"
	VerifiedCopy       Defence = "verified-copy"
	EndConnections     Defence = "end-connections"
	EndLogins          Defence = "end-logins"
	EndForeign         Defence = "end-foreign"
	OneJob             Defence = "one-job"
	HiddenRoots        Defence = "hidden-roots"
	FilterWatch        Defence = "filter-watch"
	KillGroup          Defence = "kill-group"
	PrivateIPC         Defence = "private-ipc"
	SessionKeyring     Defence = "session-keyring"
	UserKeyring        Defence = "user-keyring"
	RepliesOnly        Defence = "replies-only"
	PrivateMounts      Defence = "private-mounts"

	Authentication Defence = "authentication"
	Counter        Defence = "counter"
)

// All lists every defence, in the order of their making.
var All = []Defence{
	SignatureCheck,
	SignerBinding,
	SingleUse,
	StopSSH,
	DefaultDrop,
	PinnedHeader,
	NoexecParent,
	CleanEnvironment,
	StepProof,
	SocketRootOnly,
	NoClients,
	OutputInVolume,
	CoreLimit,
	CoreCheck,
	SwapCheck,
	PolicyRoots,
	UserRights,
	RegularFiles,
	MountPoints,
	VolumeAttrs,
	OwnerMap,
	NoNewPrivs,
	Verity,
	ImageDigest,
	ImageSignature,
	CanonicalEncoding,
	EmptyInput,
	Expiry,
	OneComponent,
	OwnUserDatabase,
	Place,
	PrivateDirectories,
	RegisteredSigner,
	SealedArguments,
	SignatureNamespace,
	VerifiedCopy,
	EndConnections,
	EndLogins,
	EndForeign,
	OneJob,
	HiddenRoots,
	FilterWatch,
	KillGroup,
	PrivateIPC,
	SessionKeyring,
	UserKeyring,
	RepliesOnly,
	PrivateMounts,
	Authentication,
	Counter,
	DoorsWatch,
	ProcessWatch,
	PrivateActivation,
	UdevRule,
	RootsSlurmd,
}
