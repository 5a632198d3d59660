package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"cloister/client/advice"
	"cloister/volume"
	"cloister/volume/luks2"

	"github.com/spf13/cobra"
)

func newVolumeKeyslots(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "keyslots V.luks",
		Short: "List, add and remove what opens a volume",
		Long: `A keyslot holds the volume's key, encrypted under a random key or a passphrase.
Keyslots are for cryptsetup and for a lost CLOISTER_HOME: cloister and its jobs
open a volume without them.

Removing a keyslot does not help against somebody who copied the volume before.`,
		Example: `  cloister volume keyslots patients.luks
  cloister volume keyslots add patients.luks --new-key-file usb/patients.key
  cloister volume keyslots remove patients.luks 1`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.keyslots(args[0]) },
	}
	c.AddCommand(newKeyslotsAdd(a), newKeyslotsRemove(a))
	return c
}

func (a *app) keyslots(path string) error {
	h, err := volumeInfo(path, "if the header was damaged: cloister volume check --repair")
	if err != nil {
		return err
	}
	for _, k := range h.Keyslots {
		what := ""
		if !k.Bound {
			what = ", not of this volume's key"
		}
		a.printf("%2d  %s%s\n", k.ID, k.KDF, what)
	}
	return nil
}

func newKeyslotsAdd(a *app) *cobra.Command {
	var how opening
	var file string
	c := &cobra.Command{
		Use:     "add V.luks --new-key-file FILE",
		Short:   "Make a keyslot for a key in a file",
		Long:    "add makes a keyslot that the 32 random bytes in FILE open. For a passphrase, see cloister volume passwd.",
		Example: "  head -c 32 /dev/urandom >usb/patients.key\n  cloister volume keyslots add patients.luks --new-key-file usb/patients.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readNewKey(file)
			if err != nil {
				return err
			}
			defer key.Wipe()
			v, err := a.open(cmd.Context(), args[0], how)
			if err != nil {
				return err
			}
			defer v.Keys.Wipe()
			id, err := volume.AddKeyslot(rand.Reader, args[0], v.Keys.VolumeKey, key, luks2.RandomKey)
			if err != nil {
				return err
			}
			a.printf("%s: keyslot %d\n", args[0], id)
			return nil
		},
	}
	c.Flags().StringVar(&file, "new-key-file", "", "the `FILE` with the new key")
	_ = c.MarkFlagRequired("new-key-file")
	how.flags(c)
	return c
}

func newKeyslotsRemove(a *app) *cobra.Command {
	var how opening
	c := &cobra.Command{
		Use:     "remove V.luks NUMBER",
		Short:   "Take a keyslot away",
		Long:    "remove overwrites a keyslot. It wants to see that you can still open the volume: by CLOISTER_HOME, or by another keyslot.",
		Example: "  cloister volume keyslots remove patients.luks 1",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 8)
			if err != nil {
				return advice.Misuse("list them: cloister volume keyslots "+args[0], "%q is no number of a keyslot", args[1])
			}
			v, err := a.open(cmd.Context(), args[0], how)
			if err != nil {
				return err
			}
			v.Keys.Wipe()
			if !v.kept && v.slot == int(n) {
				return advice.Refuse("open it by another keyslot", "keyslot %d is the one that you opened the volume with", n)
			}
			if err := volume.RemoveKeyslot(rand.Reader, args[0], int(n)); err != nil {
				return err
			}
			a.printf("%s: keyslot %d is gone\n", args[0], n)
			return nil
		},
	}
	how.flags(c)
	return c
}

func newVolumePasswd(a *app) *cobra.Command {
	var how opening
	slot := -1
	c := &cobra.Command{
		Use:   "passwd V.luks",
		Short: "Set or change the passphrase of a volume",
		Long: `passwd asks twice for a new passphrase, and makes a keyslot for it or changes the one
that there is. Whoever has a copy of the volume can guess at it, for ever; a
copy from before still opens with the old one.`,
		Example: `  cloister volume passwd patients.luks
  cloister volume passwd patients.luks --passphrase   if its keys are not kept here`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().IntVar(&slot, "slot", -1, "the `NUMBER` of the keyslot to change, if several have a passphrase")
	how.flags(c)
	kdf := kdfFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		k, err := kdf()
		if err != nil {
			return err
		}
		return a.passwd(cmd.Context(), args[0], how, slot, k)
	}
	return c
}

func (a *app) passwd(ctx context.Context, path string, how opening, slot int, k luks2.KDF) error {
	v, err := a.open(ctx, path, how)
	if err != nil {
		return err
	}
	defer v.Keys.Wipe()
	if slot < 0 && how.passphrase {
		slot = v.slot
	}
	if slot < 0 {
		if slot, err = passphraseSlot(path); err != nil {
			return err
		}
	}
	p, err := a.askNew()
	if err != nil {
		return err
	}
	defer p.Wipe()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if slot < 0 {
		slot, err = volume.AddKeyslot(rand.Reader, path, v.Keys.VolumeKey, p, k)
	} else {
		err = volume.ChangeKeyslot(rand.Reader, path, slot, v.Keys.VolumeKey, p, k)
	}
	if err != nil {
		return err
	}
	a.printf("%s: keyslot %d opens with the new passphrase\n", path, slot)
	return nil
}

// passphraseSlot finds the keyslot of a passphrase, -1 if there is none: only
// passphrases are worth the cost of argon2.
func passphraseSlot(path string) (int, error) {
	h, err := volumeInfo(path, "mend the header: cloister volume check --repair")
	if err != nil {
		return 0, err
	}
	slot, all := -1, []string{}
	for _, k := range h.Keyslots {
		if k.Bound && strings.HasPrefix(k.KDF.Type, "argon2") {
			slot = k.ID
			all = append(all, fmt.Sprint(k.ID))
		}
	}
	if len(all) > 1 {
		return 0, advice.Misuse("name one with --slot", "%s: several keyslots have a passphrase: %s", path, strings.Join(all, ", "))
	}
	return slot, nil
}
