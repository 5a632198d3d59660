package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloister/tests/cluster"
	"cloister/tests/deploy"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	s, err := deploy.Start(ctx, deploy.Release, func(f string, a ...any) { fmt.Printf(f+"\n", a...) })
	must(err)
	defer s.Close()
	must(s.MakeVolume(ctx, "alice", "bench.luks", map[string]string{"data.txt": strings.Repeat("patients\n", 1000000)}))
	use := `for f in /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/init.scope/cpu.stat /sys/fs/cgroup/system.slice/*/cpu.stat; do echo "$f $(awk '$1=="usage_usec"||$1=="user_usec"{printf "%s ", $2}' $f)"; done; grep cpu0 /proc/stat`
	for i := range 2 {
		name := fmt.Sprintf("b%d", i)
		must(s.Seal(ctx, "alice", name, "#!/bin/bash\n#SBATCH --partition=secure\n#SBATCH --nodelist=s2\n#SBATCH --time=10\n#CLOISTER class=on-demand\n#CLOISTER volume=bench.luks:/data:ro\n#CLOISTER volume="+name+".luks:/results:rw,create,size=32M\n#CLOISTER output=/results/out.txt\necho hi\n"))
		time.Sleep(3 * time.Second)
		before, err := s.Output(ctx, cluster.S2, use)
		must(err)
		job, err := s.Submit(ctx, "alice", "--secure "+name+".sealed")
		must(err)
		time.Sleep(30 * time.Second)
		after, err := s.Output(ctx, cluster.S2, use)
		must(err)
		e, err := s.Wait(ctx, "alice", job, time.Minute)
		fmt.Println(e, err)
		fmt.Println("BEFORE\n" + before + "AFTER\n" + after)
		j, err := s.Output(ctx, cluster.S2, "journalctl -q --no-pager -b -o short-precise --since -60s")
		must(err)
		fmt.Println(j)
	}
}
