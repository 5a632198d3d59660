package account

import "testing"

func TestAGroupThatOnlyTheControllerKnowsIsRefused(t *testing.T) {
	a := Account{UID: 2001, GID: 2001, Groups: []uint32{2001, 300}, Name: "alice"}
	const disk = 6
	for _, c := range []struct {
		gid    uint32
		groups []uint32
		ok     bool
	}{
		{2001, []uint32{2001, 300}, true},
		{300, nil, true},
		{2001, []uint32{2001, disk}, false},
		{disk, nil, false},
		{0, []uint32{2001}, false},
	} {
		if err := a.Check(c.gid, c.groups); (err == nil) != c.ok {
			t.Errorf("gid %d, groups %v: %v", c.gid, c.groups, err)
		}
	}
}

func TestSystemUsersAndUnknownOnesHaveNoSecureJobs(t *testing.T) {
	for _, uid := range []uint32{0, 1, 999, 4294967294, 4294967295} {
		if a, err := Lookup(uid); err == nil {
			t.Errorf("uid %d is %+v", uid, a)
		}
	}
}
