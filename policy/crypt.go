package policy

import (
	"fmt"
	"slices"
)

// CryptOptions are options of dm-crypt, by the names of crypttab(5), and "auto".
type CryptOptions []string

// The options of dm-crypt that an administrator may choose
// (Documentation/admin-guide/device-mapper/dm-crypt.rst).
const (
	// CryptAuto leaves the workqueues out on local solid-state disks.
	CryptAuto = "auto"
	// CryptNoReadWorkqueue and CryptNoWriteWorkqueue have the thread that reads
	// or writes do the encryption, not the kernel's workers.
	CryptNoReadWorkqueue  = "no-read-workqueue"
	CryptNoWriteWorkqueue = "no-write-workqueue"
	// CryptDiscard passes on, from volumes that were made here, which blocks were
	// freed. A volume that its owner made may be meant to hide that.
	CryptDiscard = "discard"
)

// Has reports whether the administrator named the option.
func (o CryptOptions) Has(option string) bool { return slices.Contains(o, option) }

func (o CryptOptions) check() error {
	known := []string{CryptAuto, CryptNoReadWorkqueue, CryptNoWriteWorkqueue, CryptDiscard}
	for i, option := range o {
		if !slices.Contains(known, option) {
			return fmt.Errorf("volumes.dm_crypt: %q is none of %q", option, known)
		}
		if slices.Contains(o[:i], option) {
			return fmt.Errorf("volumes.dm_crypt has %s twice", option)
		}
	}
	if o.Has(CryptAuto) && (o.Has(CryptNoReadWorkqueue) || o.Has(CryptNoWriteWorkqueue)) {
		return fmt.Errorf("volumes.dm_crypt: %s chooses the workqueues itself", CryptAuto)
	}
	return nil
}
