package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// A spot is one byte of a sealed job.
type spot struct {
	region string
	at     int
}

// spots samples every region of a sealed job: what sbatch reads, what the shell
// runs, the encrypted part with its stanzas for nodes, the signature, and all
// lines between them.
func spots(file string) ([]spot, error) {
	var all []spot
	for _, r := range []struct {
		region, begins, ends string
		samples              int
	}{
		{"#! line", "#!/bin", "\n", 1},
		{"#SBATCH partition", "#SBATCH --partition=", "\n", 1},
		{"#SBATCH time", "#SBATCH --time=", "\n", 1},
		{"hint", "echo '", "\n", 1},
		{"exit line", "exit ", "\n", 1},
		{"expiry", ": 'expires ", ";", 1},
		{"arguments", " sha256:", "'", 1},
		{"here-document line", ": <<'", "\n", 1},
		{"age BEGIN line", "-----BEGIN AGE", "\n", 1},
		{"encrypted part", "FILE-----\n", "-----END AGE", 6},
		{"age END line", "-----END AGE", "\n", 1},
		{"signature BEGIN line", "-----BEGIN SSH", "\n", 1},
		{"signature", "SIGNATURE-----\n", "-----END SSH", 5},
		{"signature END line", "-----END SSH", "\n", 1},
	} {
		_, after, found := strings.Cut(file, r.begins)
		if !found {
			return nil, fmt.Errorf("a sealed job without %q", r.begins)
		}
		from := len(file) - len(after)
		length := strings.Index(after, r.ends)
		if length <= 0 {
			return nil, fmt.Errorf("a sealed job with nothing between %q and %q", r.begins, r.ends)
		}
		for i := range r.samples {
			all = append(all, spot{r.region, from + (2*i+1)*length/(2*r.samples)})
		}
	}
	return append(all, spot{"terminator", len(file) - 3}), nil
}

// other is a byte that is not b and might pass where b did.
func other(b byte) byte {
	switch {
	case b == '9' || b == 'z' || b == 'Z' || b == '/':
		return b - 1
	case b == '\n':
		return ' '
	}
	return b + 1
}

// changedByte submits copies of one sealed job, each with another byte
// changed, all at once to both secure nodes. The #SBATCH lines are signed but
// not encrypted: nothing else would notice.
func changedByte(ctx context.Context, s *deploy.Site) error {
	name, err := sealed(ctx, s, "changed", "")
	if err != nil {
		return err
	}
	file, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name+".sealed"))
	if err != nil {
		return err
	}
	all, err := spots(string(file))
	if err != nil {
		return err
	}
	var change, submit strings.Builder
	for i, p := range all {
		fmt.Fprintf(&change, "cp -p %s.sealed %[1]s-%d.sealed && printf '\\%03o' | dd of=%[1]s-%[2]d.sealed bs=1 seek=%[4]d conv=notrunc status=none && ", name, i, other(file[p.at]), p.at)
		// sbatch itself refuses a file without #!.
		fmt.Fprintf(&submit, "timeout 60 sbatch -p secure -w %s -o %s-%d.out --secure %[2]s-%[3]d.sealed || echo sbatch refused\n", nodes[1-i%2], name, i)
	}
	if _, err := s.Output(ctx, cluster.Head, "cd "+deploy.Home("alice")+" && "+change.String()+"true"); err != nil {
		return err
	}
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "cd "+deploy.Home("alice")+"\n"+submit.String())
	if err != nil {
		return err
	}
	answers := strings.Split(strings.TrimSpace(out), "\n")
	if len(answers) != len(all) {
		return fmt.Errorf("%d answers of sbatch to %d jobs: %q", len(answers), len(all), out)
	}
	for i, p := range all {
		if answers[i] == "sbatch refused" {
			continue
		}
		id, err := deploy.JobNumber(answers[i])
		if err != nil {
			return err
		}
		state, err := ended(ctx, s, id)
		if err != nil {
			return err
		}
		if state == "COMPLETED" {
			return got("the job ran with a byte changed in its %s", p.region)
		}
		said, err := s.Output(ctx, cluster.Head, fmt.Sprintf("cat %s/%s-%d.out", deploy.Home("alice"), name, i))
		if err != nil {
			return err
		}
		if state != "FAILED" || !strings.Contains(said, "refused in phase admit") {
			return fmt.Errorf("a byte changed in the %s, at %d: the job is %s: %q", p.region, p.at, state, said)
		}
	}
	for _, node := range []string{cluster.S1, cluster.S2} {
		if err := idle(ctx, s, node); err != nil {
			return err
		}
	}
	return nil
}

// ended waits for a job's end, wherever its output goes, and returns its state.
func ended(ctx context.Context, s *deploy.Site, id uint32) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		e, err := s.Look(ctx, id)
		if err != nil {
			return "", err
		}
		switch e.State {
		case "PENDING", "RUNNING", "COMPLETING", "CONFIGURING":
		default:
			return e.State, nil
		}
	}
}
