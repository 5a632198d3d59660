// Package devicemapper maps block devices through the kernel's device-mapper:
// dm-crypt in plain mode or over dm-integrity, and dm-verity without a
// superblock, all with parameters that the caller states in full. It makes the
// mappings that cryptsetup(8) and veritysetup(8) would make of the same parameters.
//
// It is for package noded/unlock. It refuses to read any header: there is no
// way here to load a LUKS or verity superblock from a device, so what an
// attacker writes into one cannot change a cipher, an offset or a key.
//
// Every device is private: udev is told not to probe what is inside and to
// make no links to it, and nothing waits for udev.
//
// It speaks to /dev/mapper/control itself. libcryptsetup did the same in more
// than a second for each mapping of an emulated guest, most of it waiting for
// udev; and every helper process of noded had libcrypto to load with it. Also,
// CRYPT_DEACTIVATE_FORCE of 2.7.5 was seen to leave a mounted device's table,
// key included, as it was, after half a minute of trying.
package devicemapper

import "errors"

// Status is what a device name stands for.
type Status int

// The states of a device name.
const (
	Inactive   Status = iota
	Unfinished        // has a name, but no table in use: who made it was killed on the way
	Active            // mapped, nothing has it open
	Busy              // mapped, and mounted, opened or used by another mapping
)

var (
	// ErrBusy is wrapped by Close when something still uses the device.
	ErrBusy = errors.New("device is in use")
	// ErrNotActive is wrapped by Close when there is no such device.
	ErrNotActive = errors.New("no such device")
)
