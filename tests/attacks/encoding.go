package attacks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloister/mutant"
	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

// onEncoding are sealed jobs whose bytes, or whose job, are not what was
// signed, though every reader but noded may still take them for that.
var onEncoding = []Attack{
	{Number: 40, Who: "A1 A2", Name: "who controls Slurm re-encodes a waiting sealed job or adds lines to it",
		Defences: defences(mutant.CanonicalEncoding, mutant.SignatureCheck), Try: every(encodings()...)},
	{Number: 40, Who: "A1 A4", Name: "a sealed job is submitted as a component of a heterogeneous job", Defences: defences(mutant.OneComponent), Try: heterogeneous},
}

// recoded are sealed jobs that mean the same to a lenient reader of armor.
var recoded = []struct {
	name   string
	recode func(signed, signature, tail string) (string, error)
}{
	{"carriage returns", func(signed, signature, tail string) (string, error) {
		return signed + sigBegin + strings.ReplaceAll(strings.TrimPrefix(signature, sigBegin), "\n", "\r\n") + tail, nil
	}},
	{"blank lines before the age armor", func(signed, signature, tail string) (string, error) {
		return strings.Replace(signed, ageBegin, "\n \n"+ageBegin, 1) + signature + tail, nil
	}},
	{"lines before the signature's data", func(signed, signature, tail string) (string, error) {
		return signed + strings.Replace(signature, sigBegin, sigBegin+"\n\n", 1) + tail, nil
	}},
	{"base64 tail", func(signed, signature, tail string) (string, error) {
		// The last character before the padding has bits that nobody reads.
		i := strings.Index(signature, "=\n")
		if i < 1 || strings.IndexByte("AEIMQUYcgkosw048", signature[i-1]) < 0 {
			return "", errors.New("the signature has no spare bits")
		}
		return signed + signature[:i-1] + string(signature[i-1]+1) + signature[i:] + tail, nil
	}},
	{"lines after the end", func(signed, signature, tail string) (string, error) {
		return signed + signature + tail + "touch /tmp/unsigned\n" + tail, nil
	}},
	{"#SBATCH and #PBS lines in the body", func(signed, signature, tail string) (string, error) {
		return signed + signature + "#SBATCH --comment=unsigned\n#PBS -N unsigned\n" + tail, nil
	}},
}

const ageBegin = "-----BEGIN AGE ENCRYPTED FILE-----\n"

func encodings() []variant {
	var all []variant
	for _, r := range recoded {
		all = append(all, variant{r.name, func(ctx context.Context, s *deploy.Site) error {
			name, err := sealedWith(ctx, s, "recoded", "on-demand", nil)
			if err != nil {
				return err
			}
			file, err := os.ReadFile(filepath.Join(s.LaptopDir("alice"), name+".sealed"))
			if err != nil {
				return err
			}
			signed, signature, tail, err := split(string(file))
			if err != nil {
				return err
			}
			again, err := r.recode(signed, signature, tail)
			if err != nil {
				return err
			}
			return replacedInQueue(ctx, s, name, again)
		}})
	}
	return all
}

// replacedInQueue has slurmctld send other bytes than sbatch took, which
// refuses some of them.
func replacedInQueue(ctx context.Context, s *deploy.Site, name, file string) error {
	id, err := s.Submit(ctx, "alice", "--hold --secure "+name+".sealed")
	if err != nil {
		return err
	}
	script := fmt.Sprintf("/var/spool/slurmctld/hash.%d/job.%d/script", id%10, id)
	// slurmctld keeps the NUL that ends the text.
	if _, err := s.Output(ctx, cluster.Head, fmt.Sprintf("test -s %[1]s && { cat; printf '\\0'; } > %[1]s && timeout 60 scontrol release %d", script, id), cluster.Stdin([]byte(file))); err != nil {
		return err
	}
	return refusedJob(ctx, s, "alice", id, "altered")
}

// heterogeneous: the other component would be a job on another node, with
// nothing signed.
func heterogeneous(ctx context.Context, s *deploy.Site) error {
	name, err := sealedWith(ctx, s, "component", "on-demand", nil)
	if err != nil {
		return err
	}
	// Only the backfill scheduler starts such jobs, by default twice a minute.
	if _, err := s.Output(ctx, cluster.Head, "cp -a /etc/slurm/slurm.conf /root/ && echo SchedulerParameters=bf_interval=1 >> /etc/slurm/slurm.conf && timeout 60 scontrol reconfigure"); err != nil {
		return err
	}
	defer s.Run(context.WithoutCancel(ctx), cluster.Head, "cp -a /root/slurm.conf /etc/slurm/ && timeout 60 scontrol reconfigure")
	out, err := s.OutputAs(ctx, "alice", cluster.Login, "timeout 60 sbatch --secure -p secure -w s2 : -p batch -w n1 "+name+".sealed")
	if err != nil {
		return err
	}
	id, err := deploy.JobNumber(out)
	if err != nil {
		return err
	}
	return refusedJob(ctx, s, "alice", id, "heterogeneous")
}
