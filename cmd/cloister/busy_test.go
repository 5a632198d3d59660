package main

import (
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"cloister/volume"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// locked has the open files of busy by their path, which no two scripts share.
var locked sync.Map

// busy takes the lock that a node takes for a job (noded/unlock), and leaves
// the note that says so, if it is given the node and the job.
func busy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 && len(args) != 3 {
		ts.Fatalf("usage: busy FILE [NODE JOB]")
	}
	path := ts.MkAbs(args[0])
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ts.Check(err)
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	ts.Check(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole))
	if len(args) == 3 {
		job, err := strconv.ParseUint(args[2], 10, 32)
		ts.Check(err)
		ts.Check(volume.Holder{Node: args[1], Job: uint32(job), Since: time.Now()}.Note(f))
	}
	locked.Store(path, f)
}

// free gives back what busy took.
func free(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: free FILE")
	}
	f, ok := locked.LoadAndDelete(ts.MkAbs(args[0]))
	if !ok {
		ts.Fatalf("%s is not locked", args[0])
	}
	file := f.(*os.File)
	// Closing is not enough while a child that was just forked has it, too.
	whole := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	ts.Check(unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &whole))
	ts.Check(file.Close())
}
