//go:build !guest

package lockdown

import "testing"

func TestOnlyAListenerThatTheLockLetsOthersReachIsExposed(t *testing.T) {
	s := newSpace(t)
	s.run("ip", "link", "set", "lo", "up")
	exposed := func() int {
		t.Helper()
		all, err := s.filter().Exposed(soon(t), labLock())
		if err != nil {
			t.Fatal(err)
		}
		t.Log(all)
		return len(all)
	}
	for _, harmless := range []string{":6818", ":22", "127.0.0.1:60002"} {
		s.listen("tcp", harmless)
	}
	if n := exposed(); n != 0 {
		t.Errorf("%d listeners are exposed", n)
	}
	s.listen("tcp", ":60003")
	s.listen("tcp4", "0.0.0.0:60010")
	if n := exposed(); n != 2 {
		t.Errorf("%d listeners are exposed, not 2", n)
	}
}
