package devicemapper

import (
	"encoding/binary"
	"testing"
)

// answer is the kernel's to a question for one target's status.
func answer(kind, line string, start uint32) message {
	m := make(message, dmHeader+dmTarget, dmHeader+dmTarget+len(line))
	binary.NativeEndian.PutUint32(m[16:], start)
	copy(m[dmHeader+24:dmHeader+40], kind)
	return append(m, line...)
}

func TestAVerityDevicesStatusIsRead(t *testing.T) {
	for _, c := range []struct {
		m         message
		want, bad bool
	}{
		{answer("verity", "V\x00", dmHeader), false, false},
		{answer("verity", "C\x00", dmHeader), true, false},
		{answer("verity", "C -\x00", dmHeader), true, false}, // with an option's status after it
		{answer("crypt", "C\x00", dmHeader), false, false},
		{answer("verity", "C", dmHeader), false, true},
		{answer("verity", "C\x00", dmHeader+dmTarget), false, true},
		{answer("verity", "C\x00", 0), false, true},
		{make(message, dmHeader), false, true},
	} {
		if got, err := corrupted(c.m); got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: %v, %v", c.m[dmHeader:], got, err)
		}
	}
}
