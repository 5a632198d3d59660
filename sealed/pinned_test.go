package sealed

import (
	"bytes"
	"strings"
	"testing"

	"cloister/volume"
)

func pinnedCreate(t testing.TB, size int64) volume.Pinned {
	t.Helper()
	p, keys, err := volume.PlanNewVolume(bytes.NewReader(bytes.Repeat([]byte{5}, 1024)), size, true)
	if err != nil {
		t.Fatal(err)
	}
	keys.Wipe()
	return p
}

// pinnedReadOnly pins a payload of one MiB: 256 blocks of data, two leaves of
// the tree and its root (128 hashes of 32 bytes fill a block of 4096).
func pinnedReadOnly(t testing.TB) volume.Pinned {
	t.Helper()
	const size = 1 << 20
	p := pinnedCreate(t, size)
	p.UUID = "11111111-2222-4333-8444-555555555555"
	p.Verity = &volume.Verity{
		Algorithm: volume.Algorithm, DataBlockSize: 4096, HashBlockSize: 4096,
		HashOffset: p.PayloadOffset + size, HashSize: 3 * 4096,
		RootHash: strings.Repeat("0a", 32), Salt: strings.Repeat("0b", 32),
	}
	return p
}

// authenticate makes the second volume an authenticated one that is there.
func authenticate(t testing.TB, m *Manifest) {
	t.Helper()
	p, keys, err := volume.PlanNewVolume(bytes.NewReader(bytes.Repeat([]byte{6}, 1024)), 64<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	keys.Wipe()
	m.Volumes[1].Create, m.Volumes[1].Size, m.Volumes[1].Pinned = false, 0, p
}

func TestTheStateOfAnAuthenticatedVolumeIsPartOfTheManifest(t *testing.T) {
	m := testManifest(t)
	authenticate(t, m)
	m.Volumes[1].State = volume.State{Counter: 4, Job: m.Job}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"state":{"counter":4,"job":"`+m.Job+`"}`)) {
		t.Errorf("%s", b)
	}
	again, err := ParseManifest(b)
	if err != nil || again.Volumes[1].State != m.Volumes[1].State {
		t.Errorf("read as %+v, %v", again, err)
	}
}

func TestPinnedParametersMustFitTheUse(t *testing.T) {
	for name, alter := range map[string]func(m *Manifest){
		"read-only without a tree": func(m *Manifest) { m.Volumes[0].Pinned.Verity = nil },
		"writable with a tree": func(m *Manifest) {
			m.Volumes[1].Pinned = pinnedReadOnly(t)
			m.Volumes[1].Pinned.UUID = m.Volumes[0].Pinned.UUID[:35] + "6"
			m.Volumes[1].Create, m.Volumes[1].Size = false, 0
		},
		"made with another size": func(m *Manifest) { m.Volumes[1].Size *= 2 },
		"too large to be authenticated": func(m *Manifest) {
			p, _, err := volume.PlanNewVolume(bytes.NewReader(bytes.Repeat([]byte{5}, 1024)), MaxAuthenticated+4096, false)
			if err != nil {
				t.Fatal(err)
			}
			m.Volumes[1].Pinned, m.Volumes[1].Size = p, p.PayloadSize
		},
		"a state of a volume without":      func(m *Manifest) { m.Volumes[0].State = volume.State{Counter: 2, Job: m.Job} },
		"a state of a volume that is made": func(m *Manifest) { m.Volumes[1].State = volume.State{Counter: 2, Job: m.Job} },
		"a state that no node writes": func(m *Manifest) {
			authenticate(t, m)
			m.Volumes[1].State = volume.State{Counter: 0, Job: m.Job}
		},
		"null cipher":      func(m *Manifest) { m.Volumes[0].Pinned.Cipher = "cipher_null-ecb" },
		"one volume twice": func(m *Manifest) { m.Volumes[1].Pinned.UUID = m.Volumes[0].Pinned.UUID },
	} {
		m := testManifest(t)
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		alter(m)
		if err := m.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
