//go:build guest

package unlock

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"cloister/noded/helper"
	"cloister/volume"
)

func TestASecondWriterIsToldWhoHasTheVolume(t *testing.T) {
	m, s := makeVolume(t, true), session(t)
	check(t, os.Chown(m.path, uid, gid))
	openAs := func(h volume.Holder) (*os.File, *Opened, error) {
		f, err := os.OpenFile(m.path, os.O_RDWR, 0)
		check(t, err)
		t.Cleanup(func() { f.Close() })
		o, err := Open(t.Context(), s, Volume{File: f, Pinned: m.pinned, Key: m.keys.VolumeKey, UID: uid, GID: gid, Holder: h})
		return f, o, err
	}
	first := volume.Holder{Node: "n1", Job: 7, Since: time.Now()}
	f, o, err := openAs(first)
	check(t, err)
	if _, _, err := openAs(volume.Holder{Node: "n2", Job: 8, Since: time.Now()}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "job 7 on node n1 has it since") {
		t.Errorf("a second writer: %v", err)
	}
	held, err := Hold(f, first, helper.User{UID: uid, GID: gid})
	check(t, err)
	check(t, f.Close())
	check(t, o.Mount.Close())
	check(t, Close(t.Context(), s))
	nothingLeft(t, s)
	check(t, held.Release(t.Context()))
	_, o, err = openAs(volume.Holder{Node: "n2", Job: 8, Since: time.Now()})
	check(t, err)
	check(t, o.Mount.Close())
}
