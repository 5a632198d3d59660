package attacks

import (
	"encoding/binary"
	"hash/crc32"
)

// lvmSignature makes a device look like a physical volume of LVM: label and PV
// header in sector 1, which ext4 leaves alone (lib/label/label.h and
// lib/format_text/layout.h of LVM2).
func lvmSignature(device []byte) {
	s := device[512:1024]
	clear(s)
	copy(s[0:], "LABELONE")
	binary.LittleEndian.PutUint64(s[8:], 1)   // its own sector
	binary.LittleEndian.PutUint32(s[20:], 32) // where the PV header begins
	copy(s[24:], "LVM2 001")
	copy(s[32:], "cloister37attackcloister37attack") // the PV's UUID
	binary.LittleEndian.PutUint64(s[64:], uint64(len(device)))
	// LVM's CRC starts with a number of its own and is not inverted.
	const initial = 0xf597a6cf
	binary.LittleEndian.PutUint32(s[16:], ^crc32.Update(^uint32(initial), crc32.IEEETable, s[20:]))
}

// mdRoom is what mdSignature needs at the end, in bytes.
const mdRoom = 8192

// mdSignature makes a device, of whole blocks of 4096 bytes, look like a member
// of an MD array: superblock 1.0, 8 KiB before the end (struct mdp_superblock_1
// of linux/raid/md_p.h).
func mdSignature(device []byte) {
	const header, role = 256, 2
	s := device[len(device)-mdRoom:][:header+role]
	sectors := uint64(len(device)-mdRoom) / 512
	clear(s)
	le := binary.LittleEndian
	le.PutUint32(s[0:], 0xa92b4efc)
	le.PutUint32(s[4:], 1) // major version
	copy(s[16:], "cloister37attack")
	copy(s[32:], "any:cloister37")
	le.PutUint32(s[72:], 1)       // RAID 1
	le.PutUint64(s[80:], sectors) // of the array
	le.PutUint32(s[92:], 1)       // disks
	le.PutUint64(s[136:], sectors)
	le.PutUint64(s[144:], sectors) // where it lies itself
	copy(s[168:], "attackcloister37")
	le.PutUint64(s[200:], 1) // events
	le.PutUint32(s[220:], 1) // roles, of which one follows
	var sum uint64
	for i := 0; i < header; i += 4 {
		sum += uint64(le.Uint32(s[i:]))
	}
	sum += uint64(le.Uint16(s[header:]))
	le.PutUint32(s[216:], uint32(sum)+uint32(sum>>32))
}
