package main

import (
	"bytes"
	"os"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sylabs/sif/v2/pkg/integrity"
	"github.com/sylabs/sif/v2/pkg/sif"
)

// makeSIF writes an image whose file system is a squashfs by its superblock
// only, and, unless it is to be unsigned, signs it with a new key and writes
// that to KEYS.asc.
func makeSIF(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: sif FILE.sif [KEYS.asc]")
	}
	const blocks = 4096
	fs := bytes.Repeat([]byte{0xa5}, blocks)
	copy(fs, "hsqs")
	copy(fs[28:], []byte{4, 0, 0, 0})                       // major version
	copy(fs[40:], []byte{0, blocks >> 8, 0, 0, 0, 0, 0, 0}) // bytes used
	in, err := sif.NewDescriptorInput(sif.DataPartition, bytes.NewReader(fs), sif.OptPartitionMetadata(sif.FsSquash, sif.PartPrimSys, "amd64"))
	ts.Check(err)
	img, err := sif.CreateContainerAtPath(ts.MkAbs(args[0]), sif.OptCreateWithDescriptors(in))
	ts.Check(err)
	if len(args) == 2 {
		e, err := openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
		ts.Check(err)
		s, err := integrity.NewSigner(img, integrity.OptSignWithEntity(e))
		ts.Check(err)
		ts.Check(s.Sign())
		var b bytes.Buffer
		w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
		ts.Check(err)
		ts.Check(e.Serialize(w))
		ts.Check(w.Close())
		b.WriteByte('\n')
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o644))
	}
	ts.Check(img.UnloadContainer())
}
