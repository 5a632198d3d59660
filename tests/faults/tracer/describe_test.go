//go:build linux && amd64

package main

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

func TestACallHasTheSameNameInEverySession(t *testing.T) {
	for name, want := range map[string]string{
		"dm create cloister-0123456789abcdef0123456789abcdef-1-authenc":           "dm create cloister-SESSION-1-authenc",
		"write /run/cloister/sessions/.0123456789abcdef0123456789abcdef.json8712": "write /run/cloister/sessions/.SESSION.jsonN",
		"write /dev/loop3": "write /dev/loopN", "sync /dev/dm-0": "sync /dev/dm-N", "fsopen ext4": "fsopen ext4", "mkdir /tmp/dev/pts": "mkdir in the view", "open_tree /usr": "open_tree in the view", "make /tmp/.x": "make /tmp/.x", "write /proc/4711/uid_map": "write /proc/N/uid_map",
	} {
		if got := plain(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}

func TestTheMethodOfADBusCallIsFound(t *testing.T) {
	m := &dbus.Message{Type: dbus.TypeMethodCall, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
		dbus.FieldInterface:   dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
		dbus.FieldMember:      dbus.MakeVariant("MaskUnitFiles"),
		dbus.FieldDestination: dbus.MakeVariant("org.freedesktop.systemd1"),
		dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf([]string{}, true, true)),
	}, Body: []any{[]string{"ssh.service"}, true, true}}
	// The order of the fields is the map's: try several.
	for range 20 {
		var b bytes.Buffer
		if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
			t.Fatal(err)
		}
		if got := dbusMethod(b.Bytes()); got != "MaskUnitFiles" {
			t.Fatalf("got %q", got)
		}
		for n := range b.Len() {
			dbusMethod(b.Bytes()[:n]) // a message that is cut off is none
		}
	}
	if asks("MaskUnitFiles") || !asks("GetUnitFileState") || !asks("Hello") {
		t.Error("what asks and what changes is mixed up")
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte("l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x10\x00\x00\x00\x03\x01s\x00\x04\x00\x00\x00Ping\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		dbusMethod(b)
		netlink(unix.NETLINK_NETFILTER, b)
		netlink(unix.NETLINK_SOCK_DIAG, b)
		address(b)
	})
}

func TestABatchOfNftablesIsNamedByWhatItChanges(t *testing.T) {
	message := func(kind uint16) []byte {
		b := make([]byte, 20)
		binary.NativeEndian.PutUint32(b, 20)
		binary.NativeEndian.PutUint16(b[4:], kind)
		return b
	}
	nft := func(kind uint16) []byte { return message(unix.NFNL_SUBSYS_NFTABLES<<8 | kind) }
	batch := bytes.Join([][]byte{message(unix.NFNL_MSG_BATCH_BEGIN), nft(unix.NFT_MSG_NEWTABLE), nft(unix.NFT_MSG_NEWRULE), nft(unix.NFT_MSG_NEWRULE), message(unix.NFNL_MSG_BATCH_END)}, nil)
	if got, _ := netlink(unix.NETLINK_NETFILTER, batch); got != "nftables new table, new rule" {
		t.Errorf("got %q", got)
	}
	if got, _ := netlink(unix.NETLINK_NETFILTER, nft(unix.NFT_MSG_GETRULE)); got != "" {
		t.Errorf("a question is named %q", got)
	}
}
