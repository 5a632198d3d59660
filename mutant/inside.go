package mutant

// Defences against what is inside volumes, and in their ciphertext.
const (
	// PrivateActivation tells udev to leave a mapping alone.
	PrivateActivation Defence = "private-activation"
	// UdevRule is systemd/udev/09-cloister.rules and noded's demand for it. A
	// file cannot take itself out: the command attacks moves it away.
	UdevRule Defence = "udev-rule"
)
