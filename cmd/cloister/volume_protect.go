package main

import (
	"cloister/client/keystore"

	"github.com/spf13/cobra"
)

func newVolumeProtect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "protect",
		Short: "Encrypt the kept keys under a passphrase, or change it",
		Long: `protect encrypts the keys of volumes that CLOISTER_HOME keeps with age, under a
passphrase. Sealing a job, and whatever opens a volume, then asks for it; making
a volume does not. Of keys that are protected already it changes the passphrase.

It is against somebody who finds a backup of CLOISTER_HOME or the disk. What the
disk and older backups held in the clear may still be there.`,
		Example: "  cloister volume protect",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.volumeProtect() },
	}
}

func (a *app) volumeProtect() error {
	home, err := homeDir()
	if err != nil {
		return err
	}
	p, err := a.askTwice("New passphrase for your volumes' keys: ", "run it in a terminal")
	if err != nil {
		return err
	}
	defer p.Wipe()
	if err := keystore.In(home).Asking(a.askStore).Protect(p); err != nil {
		return err
	}
	a.printf("The keys of your volumes are protected.\n")
	return nil
}
