package noded

import (
	"errors"
	"strings"
	"testing"

	"cloister/sealed"
)

func TestAWorkingDirectoryOfTheSystemIsRefusedBeforeAnythingIsDone(t *testing.T) {
	d, l, a, _ := making(t)
	a.request.Arguments = []string{"/var/spool/slurmd/job00007/slurm_script"}
	first := d.steps(l, a)[0]
	for cwd, refused := range map[string]bool{"/usr/share": true, "/var/spool/slurmd": true, "/srv/alice": false, "/": false} {
		a.request.Cwd = cwd
		err := first.Do(t.Context(), nil)
		if r := (*sealed.Refusal)(nil); errors.As(err, &r) != refused || refused && !strings.Contains(r.Next, "home directory") {
			t.Errorf("from %s: %v", cwd, err)
		}
	}
}
