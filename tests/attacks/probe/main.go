// Command probe is what attackers of package attacks run on the nodes: it
// listens, connects, scans with raw packets, spies on other processes, asks the
// key server, passes for slurmd and leaves things behind. It is one static program, so that it needs
// nothing of a node, and Go, because the nodes have neither a scanner nor a
// debugger.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

var verbs = map[string]func(args []string) error{
	"listen": listen, "connect": connect, "scan": scan, "sweep": sweep,
	"spy": spy, "cling": cling, "key": key, "queue": queue, "socket": socket, "redeem": redeem,
	"-V": asked,
}

func main() {
	if len(os.Args) < 2 || verbs[os.Args[1]] == nil {
		var names []string
		for v := range verbs {
			names = append(names, v)
		}
		slices.Sort(names)
		fmt.Fprintln(os.Stderr, "usage: probe "+strings.Join(names, "|"))
		os.Exit(2)
	}
	if err := verbs[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "probe %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
